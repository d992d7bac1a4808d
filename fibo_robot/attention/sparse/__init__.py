"""Sparse diagonal attention: its one entry, its ground truth, and the controls that it is compared with."""
