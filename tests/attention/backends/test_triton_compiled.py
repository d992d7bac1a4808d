"""The Triton kernels through the compiler and NVIDIA's assembler: the interpreter takes what these refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
KERNELS = {
    "forward_kernel",
    "forward_prefix_kernel",
    "backward_queries_kernel",
    "backward_keys_kernel",
    "backward_prefix_kernel",
}


@pytest.mark.slow
@pytest.mark.triton
def test_kernels_compile_for_an_h100_with_wide_loads_and_all_in_registers():
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.attention.backends.triton_compiled",
            *("90", "64", "bfloat16", "drop", "1"),
        ],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    found = {row["kernel"]: row for row in json.loads(finished.stdout)}
    assert set(found) == KERNELS
    for row in found.values():
        assert row["spilled"] == 0, row  # nothing waits in slow memory for want of a register
        assert row["wide_loads"] > 0, row  # sixteen bytes at once, also of strided views
