"""What a state means: poses by name, vector observations, success."""
