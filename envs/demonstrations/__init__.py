"""Demonstrations: files in robomimic's layout, the experts that record them, conversion and replay."""
