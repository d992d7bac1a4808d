"""Fibottention and Castling attention as visual encoders for video classifiers and robot policies."""

__version__ = "0.1.0"
