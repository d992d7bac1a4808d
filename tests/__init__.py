"""Tests; helpers beside them are imported as `tests.…`, in worker processes too."""
