"""Castling: linear-angular attention, the branch beside it in training, and both as they are trained."""
