"""How fast rollouts are in processes and in worlds of one device, and what those cost and look like."""
