"""From demonstration files to training samples."""
