"""Compiled kernels on disk follow every file that they are made of."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fibo_robot

PACKAGE = Path(fibo_robot.__file__).parent
PROGRAM = """
import torch
from fibo_robot.attention.angular import castling_inference

torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 1, 5, 4)
print(castling_inference(q, k, v, "own").sum().item())
"""


def run(folder: Path) -> str:
    """The program's output, of the package below a folder and with the cache that lies there."""
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stdout


@pytest.mark.slow
def test_editing_an_inlined_helper_changes_the_result_of_kernels_in_other_files(tmp_path):
    package = tmp_path / "fibo_robot"
    package.mkdir()
    for module in PACKAGE.glob("*.py"):
        shutil.copy(module, package)
    shutil.copytree(
        PACKAGE / "attention", package / "attention", ignore=shutil.ignore_patterns("__pycache__")
    )
    first = run(tmp_path)
    backends = package / "attention" / "backends"
    assert list((backends / "__pycache__").glob("*/**/*.nbc")), "nothing was cached"
    assert run(tmp_path) == first
    helper = backends / "numba_vectors.py"
    part = "zero = ir.Constant(a.llvm.element, 0.0)"  # of a dot product
    assert helper.read_text().count(part) == 1
    helper.write_text(helper.read_text().replace(part, part.replace("0.0", "2.0")))
    changed = run(tmp_path)
    shutil.rmtree(backends / "__pycache__")
    assert changed == run(tmp_path) != first
