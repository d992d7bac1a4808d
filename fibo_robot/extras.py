"""Packages that only some users need: each belongs to an extra, and is asked for where it is first used."""

import importlib
from importlib import metadata
from types import ModuleType

from fibo_robot.errors import FiboError


class MissingExtraError(FiboError):
    """An optional package is not installed; the message names the extra that brings it."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: its import name.
        extra: the extra of fibo-robot that brings it.
        purpose: what needs it, as the subject of a sentence ("The simulator").

    Raises:
        MissingExtraError: it is not installed. A package that is there but broken raises its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise _missing(module, extra, purpose) from None


def installed_version(distribution: str, *, extra: str, purpose: str) -> str:
    """The version of an optional package, without importing it; arguments and error as of :func:`require`."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise _missing(distribution, extra, purpose) from None


def _missing(name: str, extra: str, purpose: str) -> MissingExtraError:
    return MissingExtraError(f"{purpose} needs {name}: pip install 'fibo-robot[{extra}]'.")
