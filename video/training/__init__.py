"""From labelled clips to batches and a loss."""
