"""Castling's linear part in training: the fused CPU path equals its formula, forward and backward."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.backends.numba import angular as numba_angular
from fibo_robot.attention.castling.angular import NORM_EPSILON, castling_inference, linear_angular
from fibo_robot.attention.castling.training import castling_training
from fibo_robot.attention.cores import AngularCore, CastlingOptions


def inputs(head_dim: int, dtype: torch.dtype = torch.float64) -> Any:
    """q, k and v as strided views, as a module hands them over, and a branch; one token of each is zero."""
    stacked = torch.randn(2, 37, 3, 3, head_dim, dtype=dtype)
    stacked[0, 4, 0] = stacked[1, 5, 1] = 0
    q, k, v = stacked.permute(2, 0, 3, 1, 4).unbind(0)
    return [tensor.detach().requires_grad_() for tensor in (q, k, v, torch.randn_like(q))]


def by_formula(
    q: Tensor, k: Tensor, v: Tensor, const_term: Any, taps: Tensor | None, branch: Tensor | None, scale: float
) -> Tensor:
    y = linear_angular(q, k, v, const_term)
    out = F.normalize(y if branch is None else y + scale * branch, dim=-1, eps=NORM_EPSILON)
    if taps is None:
        return out
    padded = F.pad(v, (0, 0, taps.shape[1] // 2, taps.shape[1] // 2))
    shifted = [padded[:, :, tap : tap + v.shape[2]] for tap in range(taps.shape[1])]
    return out + sum(taps[:, tap, None, None] * rows for tap, rows in enumerate(shifted))


@pytest.mark.parametrize("const_term", ["own", "sum", "mean"])
@pytest.mark.parametrize(("with_branch", "num_taps"), [(True, 9), (True, 0), (False, 3), (False, 0)])
@pytest.mark.parametrize("head_dim", [5, 32])
@pytest.mark.parametrize("tile", [16, 128])
def test_output_and_gradients_equal_the_formulas(
    monkeypatch, const_term, with_branch, num_taps, head_dim, tile
):
    monkeypatch.setattr(numba_angular, "TILE", tile)
    q, k, v, branch = inputs(head_dim)
    taps = torch.randn(3, num_taps, dtype=torch.float64).requires_grad_() if num_taps else None
    wanted = [q, k, v, *([taps] if taps is not None else []), *([branch] if with_branch else [])]
    given = branch if with_branch else None
    scale = torch.tensor(0.75)
    out = castling_training(q, k, v, const_term, taps, given, scale)
    expected = by_formula(q, k, v, const_term, taps, given, 0.75)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, grad), torch.autograd.grad(expected, wanted, grad)
    )


def test_the_convolution_may_be_longer_than_the_sequence():
    q, k, v = (tensor[:, :, :3].detach().requires_grad_() for tensor in inputs(8)[:3])
    taps = torch.randn(3, 9, dtype=torch.float64).requires_grad_()
    out, expected = castling_training(q, k, v, "own", taps), by_formula(q, k, v, "own", taps, None, 1.0)
    torch.testing.assert_close(out, expected)
    grads = [torch.autograd.grad(result.square().sum(), (v, taps)) for result in (out, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thousand_tokens_in_float32_equal_the_formulas_in_float64(threads):
    """Of the whole core: branch, linear part and convolution, under autocast too."""
    before = torch.get_num_threads()
    core = AngularCore(2, 32, CastlingOptions(threshold=1.1)).train()
    core.set_branch_scale(0.6)
    stacked = torch.randn(2, 1000, 3, 2, 32)
    upstream = torch.randn(2, 2, 1000, 32)
    results = []
    for dtype in (torch.float64, torch.float32):
        parts = [part.to(dtype).requires_grad_() for part in stacked.permute(2, 0, 3, 1, 4).unbind(0)]
        taps = core.dwconv.weight.detach().flatten(1).to(dtype).requires_grad_()
        if dtype == torch.float64:
            q, k, v = parts
            weights = (q @ k.transpose(-2, -1) * 32**-0.5).softmax(-1)
            branch = (weights * (weights > 1.1 / 1000)) @ v
            out = by_formula(q, k, v, "own", taps, branch, 0.6)
            wanted = [*parts, taps]
        else:
            torch.set_num_threads(threads)
            try:
                with torch.autocast("cpu", torch.bfloat16):
                    out = core(*parts)
            finally:
                torch.set_num_threads(before)
            wanted = [*parts, core.dwconv.weight]
        grads = torch.autograd.grad(out, wanted, upstream.to(dtype))
        results.append((out, *grads[:3], grads[3].flatten(1)))
    for expected, found in zip(*results, strict=True):
        # A weight that rounding takes across the threshold changes single numbers by about a thousandth.
        difference = (found.double() - expected).norm() / expected.norm()
        assert difference < 1e-4


def test_a_token_whose_sum_is_zero_stays_zero():
    q, k, v, _ = inputs(8)
    branch = -linear_angular(q, k, v).detach()
    out = castling_training(q, k, v, "own", branch=branch)
    assert out.abs().max() < 1e-6
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), (q, k, v)))


def test_half_precision_is_rounded_once():
    q, k, v, branch = inputs(32)
    halves = [tensor.detach().to(torch.bfloat16).requires_grad_() for tensor in (q, k, v, branch)]
    q, k, v, branch = halves
    out = castling_training(q, k, v, "own", branch=branch)
    expected = by_formula(q.double(), k.double(), v.double(), "own", None, branch.double(), 1.0)
    assert out.dtype == torch.bfloat16
    assert (out.double() - expected).abs().max() < 2**-8
    assert torch.autograd.grad(out.sum(), halves[0])[0].dtype == torch.bfloat16


def test_rows_that_lie_on_one_another_are_copied_first():
    q, k, v = (tensor[:, :, :1].detach().expand(-1, -1, 20, -1) for tensor in inputs(16)[:3])
    out = castling_training(q, k, v, "own")
    torch.testing.assert_close(out, by_formula(q, k, v, "own", None, None, 1.0))


def test_without_a_kernel_the_formula_serves(monkeypatch):
    q, k, v, branch = inputs(8)
    taps = torch.randn(3, 9, dtype=torch.float64)
    arguments = (q, k, v, "own", taps, branch, torch.tensor(0.5))
    fused = castling_training(*arguments)
    monkeypatch.setattr("fibo_robot.attention.backends.numba.blas.product_address", lambda dtype: None)
    torch.testing.assert_close(castling_training(*arguments), fused)
    torch.testing.assert_close(castling_inference(q, k, v, "own", taps), castling_training(*arguments[:5]))


@pytest.mark.parametrize("with_branch", [True, False])
@pytest.mark.parametrize("num_taps", [0, 9])
def test_operator_is_well_formed(with_branch, num_taps):
    q, k, v, branch = inputs(8, torch.float32)
    taps = torch.randn(3, num_taps, requires_grad=num_taps > 0)
    arguments = (q, k, v, branch if with_branch else None, torch.tensor(0.5), taps, "own")
    torch.library.opcheck(torch.ops.fibo_robot.castling_training.default, arguments)
