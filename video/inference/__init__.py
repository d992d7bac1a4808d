"""A trained classifier applied: to clips, long videos, streams and test sets."""
