"""The Triton kernels against the float64 reference: in the interpreter, and on the GPU where one is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fibo_robot.attention import AttentionError, diagonal_attention
from tests.attention.triton_cases import CASES, Case

SCRIPT = Path(__file__).parent / "triton_cases.py"
by_name = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def run_cases(device: str, **environment: str) -> dict[str, dict[str, float]]:
    """The relative errors of every case."""
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), device],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, float]]:
    return run_cases("cpu", TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def on_the_gpu() -> dict[str, dict[str, float]]:
    return run_cases("cuda")


@pytest.mark.triton
@by_name
def test_kernels_equal_the_reference_in_the_interpreter(case: Case, interpreted: dict[str, dict[str, float]]):
    assert max(interpreted[case.name].values()) < case.tolerance, interpreted[case.name]


@pytest.mark.gpu
@by_name
def test_kernels_equal_the_reference_on_the_gpu(case: Case, on_the_gpu: dict[str, dict[str, float]]):
    assert max(on_the_gpu[case.name].values()) < case.tolerance, on_the_gpu[case.name]


def test_cpu_tensors_are_refused_by_name():
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(AttentionError, match="backend 'triton' needs tensors on cuda"):
        diagonal_attention(q, q, q, [[1]], backend="triton")


@pytest.mark.triton
def test_offsets_are_copied_to_a_device_once():
    from fibo_robot.attention.backends import triton_cuda

    device = torch.device("cpu")
    first, again = (triton_cuda._diagonals((1, 2, 4), (0, 2, 3), device) for _ in range(2))
    assert first is again and first[0].tolist() == [1, 2, 4] and first[1].tolist() == [0, 2, 3]
