"""The Triton kernels against the float64 reference: in the interpreter, and on the GPU where one is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fibo_robot.attention import AttentionError, diagonal_attention

CASES = Path(__file__).parent / "triton_cases.py"


def run_cases(device: str, **environment: str) -> None:
    finished = subprocess.run(
        [sys.executable, str(CASES), device],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.triton
def test_kernels_equal_the_reference_in_the_interpreter():
    run_cases("cpu", TRITON_INTERPRET="1")


@pytest.mark.gpu
def test_kernels_equal_the_reference_on_the_gpu():
    run_cases("cuda")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes CPU tensors")
def test_cpu_tensors_are_refused_by_name():
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(AttentionError, match="backend 'triton' needs tensors on cuda"):
        diagonal_attention(q, q, q, [[1]], backend="triton")
