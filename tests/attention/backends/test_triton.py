"""The Triton kernels against the float64 reference: in the interpreter, and on the GPU where one is."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fibo_robot.attention import AttentionError, diagonal_attention
from fibo_robot.benchmarks.gpu import angular, branch
from fibo_robot.benchmarks.gpu.correctness import CASES, CheckedCase

SCRIPT = Path(__file__).parent / "triton_cases.py"
KERNELS: dict[str, Sequence[CheckedCase]] = {
    "diagonal": CASES,
    "branch": branch.CASES,
    "angular": angular.CASES,
}
every_case = pytest.mark.parametrize(
    ("kernel", "case"),
    [
        pytest.param(kernel, case, id=f"{kernel}-{case.name}")
        for kernel, cases in KERNELS.items()
        for case in cases
    ],
)


def run_cases(device: str, **environment: str) -> dict[str, Any]:
    """What triton_cases.py writes: the relative errors of every case, and where NaN goes."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.attention.backends.triton_cases", device],
        env={**os.environ, **environment},
        cwd=SCRIPT.parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    return run_cases("cpu", TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def on_the_gpu() -> dict[str, Any]:
    return run_cases("cuda")


@pytest.mark.triton
@every_case
def test_kernels_equal_float64_in_the_interpreter(
    kernel: str, case: CheckedCase, interpreted: dict[str, Any]
):
    errors = interpreted["errors"][kernel][case.name]
    assert max(errors.values()) < case.tolerance, errors


@pytest.mark.gpu
@every_case
def test_kernels_equal_float64_on_the_gpu(kernel: str, case: CheckedCase, on_the_gpu: dict[str, Any]):
    errors = on_the_gpu["errors"][kernel][case.name]
    assert max(errors.values()) < case.tolerance, errors


@pytest.mark.triton
def test_nan_reaches_what_it_reaches_in_the_reference(interpreted: dict[str, Any]):
    assert len(interpreted["nan"]) == 12
    for what, (reached, expected) in interpreted["nan"].items():
        assert reached == expected and 1 <= len(reached) <= 11, what


@pytest.mark.triton
def test_results_lie_as_the_next_projection_reads_them(interpreted: dict[str, Any]):
    """And as the operator says to what is traced: torch.compile would refuse other strides."""
    settings = ([1], [0, 1, 1, 1], 1, False, 1.0)
    with FakeTensorMode():
        q = torch.empty(2, 3, 20, 8, device="cuda", dtype=torch.bfloat16)
        out, lse = torch.ops.fibo_robot.diagonal_attention(q, q, q, *settings)
        grads = torch.ops.fibo_robot.diagonal_attention_backward(q, q, q, q, out, lse, *settings)
    traced = [[list(tensor.stride()), str(tensor.dtype)] for tensor in (out, grads)]
    assert interpreted["layouts"] == traced
    assert out.transpose(1, 2).is_contiguous() and {dtype for _, dtype in traced} == {"torch.bfloat16"}


@pytest.mark.triton
def test_thresholds_of_castlings_branch_are_those_that_sorting_finds(interpreted: dict[str, Any]):
    assert len(interpreted["thresholds"]) == 24
    for what, (found, expected) in interpreted["thresholds"].items():
        assert found == pytest.approx(expected, rel=2e-6), what


@pytest.mark.triton
def test_the_branchs_results_lie_as_what_is_traced_expects(interpreted: dict[str, Any]):
    with FakeTensorMode():
        q, cutoffs = torch.empty(2, 3, 20, 8, dtype=torch.bfloat16), torch.empty(3)
        out, passed, lse = torch.ops.fibo_robot.strongest_softmax(q, q, q, cutoffs, 1.0)
        grads = torch.ops.fibo_robot.strongest_softmax_backward(q, q, q, q, out, lse, cutoffs, 1.0)
    results = (out, passed, lse, *grads)
    assert interpreted["branch_layouts"] == [[list(t.stride()), str(t.dtype)] for t in results]


@pytest.mark.triton
def test_the_linear_parts_results_lie_as_what_is_traced_expects(interpreted: dict[str, Any]):
    with FakeTensorMode():
        q, taps = (
            torch.empty(shape, dtype=torch.bfloat16, device="cuda") for shape in ((2, 3, 20, 8), (3, 3))
        )
        inference = torch.ops.fibo_robot.castling_inference(q, q, q, "own", taps)
        scale = torch.empty((), device="cuda")
        found = torch.ops.fibo_robot.castling_training(q, q, q, None, scale, taps, "own")
        grads = torch.ops.fibo_robot.castling_training_backward(q, q, q, q, *found[1:], taps, "own")
    results = (inference, *found, *grads)
    assert interpreted["angular_layouts"] == [[list(t.stride()), str(t.dtype)] for t in results]


def test_cpu_tensors_are_refused_by_name():
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(AttentionError, match="backend 'triton' needs tensors on cuda"):
        diagonal_attention(q, q, q, [[1]], backend="triton")


@pytest.mark.triton
def test_offsets_are_copied_to_a_device_once():
    from fibo_robot.attention.backends.triton import cuda as triton_cuda

    device = torch.device("cpu")
    first, again = (triton_cuda._diagonals((1, 2, 4), (0, 2, 3), device) for _ in range(2))
    assert first is again and first[0].tolist() == [1, 2, 4] and first[1].tolist() == [0, 2, 3]


@pytest.mark.triton
def test_views_of_one_projection_are_read_where_they_lie():
    from fibo_robot.attention.backends.triton.layout import strided

    qkv = torch.randn(2, 9, 3, 4, 16)
    for index, view in enumerate(qkv.permute(2, 0, 3, 1, 4).unbind(0)):
        tensor, *strides = strided(view)
        assert tensor.data_ptr() == qkv[:, :, index].data_ptr() and strides == [9 * 192, 16, 192]
    apart = torch.randn(2, 4, 16, 9).mT  # columns that lie apart are what the kernels cannot read
    tensor, *_ = strided(apart)
    assert tensor.is_contiguous() and torch.equal(tensor, apart)
