"""Demonstrations to read."""

from tests.policies.conftest import demonstrations

__all__ = ["demonstrations"]
