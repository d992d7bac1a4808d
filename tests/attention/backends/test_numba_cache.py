"""Compiled kernels on disk follow every file that they are made of."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fibo_robot

PACKAGE = Path(fibo_robot.__file__).parent
# A kernel in one file with a helper in another, compiled as the package's own are: those take long.
HELPER = """
from fibo_robot.attention.backends.numba.runner import inlined

@inlined
def term(x):
    return 3 * x
"""
KERNEL = """
import numpy as np
from numba import carray
from fibo_robot.attention.backends.numba.runner import compile_kernel
from fibo_robot.attention.backends.numba.term import term

JOB = np.dtype([("count", "i8"), ("total", "i8")])

def body(pointer):
    job = carray(pointer, 1)[0]
    for x in range(job.count):
        job.total += term(x)

def total(count):
    job = np.zeros((), JOB)
    job["count"] = count
    compile_kernel(body, JOB)(job.ctypes.data)
    return int(job["total"])
"""


def run(folder: Path) -> int:
    """The kernel's result, of the package below a folder and with the cache that lies there."""
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    program = "from fibo_robot.attention.backends.numba.total import total; print(total(5))"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(finished.stdout)


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    """The folder of kernels in a copy of the package, with the operators that they serve."""
    numba = Path("attention", "backends", "numba")
    folder = tmp_path / "fibo_robot" / numba
    shutil.copytree(PACKAGE / numba, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for package in folder.parents[:3]:
        (package / "__init__.py").touch()
    for beside in ("attention/operator.py", "attention/registration.py", "attention/errors.py", "errors.py"):
        shutil.copy(PACKAGE / beside, tmp_path / "fibo_robot" / beside)
    (folder / "term.py").write_text(HELPER)
    (folder / "total.py").write_text(KERNEL)
    return folder


def test_editing_an_inlined_helper_changes_the_result_of_kernels_in_other_files(backends, tmp_path):
    def cached() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (backends / "__pycache__").glob("*/**/*.nbc")}

    assert run(tmp_path) == 30
    before = cached()
    assert {path.name.partition(".")[0] for path in before} == {"total"}
    assert run(tmp_path) == 30 and cached() == before  # loaded, not compiled again
    (backends / "term.py").write_text(HELPER.replace("3 * x", "5 * x"))
    assert run(tmp_path) == 50


def test_every_kernel_is_compiled_with_that_cache():
    files = (PACKAGE / "attention" / "backends").rglob("*.py")
    compiling = re.compile(r"\b(njit|cfunc)\b")
    assert [path.name for path in files if compiling.search(path.read_text())] == ["runner.py"]
