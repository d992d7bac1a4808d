"""Castling's linear part in training: the fused CPU path equals its formula, forward and backward."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.angular import NORM_EPSILON, linear_angular
from fibo_robot.attention.angular_training import directions


def inputs(head_dim: int, dtype: torch.dtype = torch.float64) -> Any:
    """q, k and v as strided views, as a module hands them over, and an extra; one token of each is zero."""
    stacked = torch.randn(2, 37, 3, 3, head_dim, dtype=dtype)
    stacked[0, 4, 0] = stacked[1, 5, 1] = 0
    q, k, v = stacked.permute(2, 0, 3, 1, 4).unbind(0)
    return [tensor.detach().requires_grad_() for tensor in (q, k, v, torch.randn_like(q))]


def by_formula(q: Tensor, k: Tensor, v: Tensor, extra: Tensor | None, const_term: Any) -> Tensor:
    y = linear_angular(q, k, v, const_term)
    return F.normalize(y if extra is None else y + extra, dim=-1, eps=NORM_EPSILON)


@pytest.mark.parametrize("const_term", ["own", "sum", "mean"])
@pytest.mark.parametrize("with_extra", [True, False])
@pytest.mark.parametrize("head_dim", [5, 32])
def test_output_and_gradients_equal_the_formulas(const_term, with_extra, head_dim):
    q, k, v, extra = inputs(head_dim)
    wanted = [q, k, v, extra] if with_extra else [q, k, v]
    given = extra if with_extra else None
    out, expected = directions(q, k, v, given, const_term), by_formula(q, k, v, given, const_term)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, grad), torch.autograd.grad(expected, wanted, grad)
    )


def test_a_token_whose_sum_is_zero_stays_zero():
    q, k, v, _ = inputs(8)
    extra = -linear_angular(q, k, v).detach()
    out = directions(q, k, v, extra)
    assert out.abs().max() < 1e-6
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), (q, k, v)))


def test_half_precision_is_rounded_once():
    q, k, v, extra = inputs(32)
    halves = [tensor.detach().to(torch.bfloat16).requires_grad_() for tensor in (q, k, v, extra)]
    out = directions(*halves)
    expected = by_formula(*(tensor.double() for tensor in halves), const_term="own")
    assert out.dtype == torch.bfloat16
    assert (out.double() - expected).abs().max() < 2**-8
    assert torch.autograd.grad(out.sum(), halves[0])[0].dtype == torch.bfloat16


@pytest.mark.parametrize("with_extra", [True, False])
def test_operator_is_well_formed(with_extra):
    q, k, v, extra = inputs(8, torch.float32)
    arguments = (q, k, v, extra if with_extra else None, "own")
    torch.library.opcheck(torch.ops.fibo_robot.castling_directions.default, arguments)
