"""The Triton kernels through the compiler and NVIDIA's assembler: the interpreter takes what these refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SHARED = 99 * 1024  # bytes of shared memory that a program has on any GPU since Ampere
KERNELS = {
    "forward_kernel",
    "forward_prefix_kernel",
    "backward_queries_kernel",
    "backward_keys_kernel",
    "backward_prefix_kernel",
}


def compiled(head_dim: int, dtype: str, what: str) -> dict[str, dict[str, Any]]:
    """What triton_compiled.py writes for an H100, by kernel."""
    arguments = ("90", str(head_dim), dtype, what, "1")
    finished = subprocess.run(
        [sys.executable, "-m", "tests.attention.backends.triton_compiled", *arguments],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return {row["kernel"]: row for row in json.loads(finished.stdout)}


@pytest.mark.slow
@pytest.mark.triton
def test_kernels_compile_for_an_h100_with_wide_loads_and_all_in_registers():
    found = compiled(64, "bfloat16", "drop")
    assert set(found) == KERNELS
    for row in found.values():
        assert row["spilled"] == 0, row  # nothing waits in slow memory for want of a register
        assert row["wide_loads"] > 0, row  # sixteen bytes at once, also of strided views


@pytest.mark.triton
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_castlings_branch_compiles_for_an_h100s_tensor_cores_with_all_in_registers(dtype):
    found = compiled(64, dtype, "branch")
    assert set(found) == {"forward_kernel", "backward_queries_kernel", "backward_keys_kernel"}
    for row in found.values():
        assert row["spilled"] == 0, row
        assert row["tensor_core_products"] > 0 and row["pipelined_loads"] > 0, row


@pytest.mark.triton
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_castlings_linear_part_compiles_for_an_h100s_tensor_cores_with_all_in_registers(dtype):
    found = compiled(64, dtype, "angular")
    assert set(found) == {"state_kernel", "forward_kernel", "backward_queries_kernel", "backward_keys_kernel"}
    for row in found.values():
        assert row["spilled"] == 0 and row["shared"] <= SHARED, row
        assert row["tensor_core_products"] > 0 and row["wide_loads"] + row["pipelined_loads"] > 0, row
