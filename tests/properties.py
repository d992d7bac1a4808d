"""hypothesis, or where it is missing stand-ins by which only the tests with drawn arguments skip."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ModuleNotFoundError:
    st = mock.MagicMock()  # strategies are built while a module is loaded, and never drawn from

    def given(*_strategies: Any, **_named: Any) -> Callable:
        """Turn a test into one that asks for nothing and skips."""

        def replace(test: Callable) -> Callable:
            def left_out() -> None:
                raise AssertionError("hypothesis is needed")

            left_out.__name__, left_out.__doc__ = test.__name__, test.__doc__
            for mark in getattr(test, "pytestmark", []):
                left_out = getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs)(left_out)
            return pytest.mark.hypothesis(left_out)

        return replace

    def settings(*_arguments: Any, **_named: Any) -> Callable:
        """Leave a test as it is."""
        return lambda test: test


__all__ = ["given", "settings", "st"]
