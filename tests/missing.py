"""Run Python as if some packages were not installed, its child processes included."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.capabilities import REPOSITORY

_BLOCKER = """
from importlib import metadata
from importlib.machinery import PathFinder

MISSING = frozenset({names!r})
find, from_name = PathFinder.find_spec, metadata.Distribution.from_name

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in MISSING else find(name, path, target)

def distribution(name):
    if name.lower().replace("-", "_") in MISSING:
        raise metadata.PackageNotFoundError(name)
    return from_name(name)

PathFinder.find_spec = staticmethod(find_spec)
metadata.Distribution.from_name = staticmethod(distribution)
"""


def run_without(missing: Iterable[str], *arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run this Python with `arguments`, from `folder` (empty before), without the packages `missing`.

    The blocker is a `sitecustomize`, which every child process that inherits the environment imports as well.
    """
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_BLOCKER.format(names=sorted(missing)))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
