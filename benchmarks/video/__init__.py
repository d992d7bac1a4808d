"""How fast videos are decoded, become batches, and pass through a model."""
