"""Behaviour-cloning policies: observation encoder, normaliser, heads."""
