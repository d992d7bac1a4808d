"""One file per backend of diagonal attention."""
