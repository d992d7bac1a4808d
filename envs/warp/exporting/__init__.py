"""A task as files: its compiled model, and where its episodes begin."""
