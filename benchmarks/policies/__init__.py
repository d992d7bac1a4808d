"""How fast demonstrations become batches, and how long a policy takes to decide."""
