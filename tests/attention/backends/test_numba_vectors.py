"""The kernels' own arithmetic: exp against float64, and half precision rounded as PyTorch rounds it."""

import numba
import numpy as np
import pytest
import torch

from fibo_robot.attention.backends.numba.vectors import exponential, load, number, scaled, store, zero_row


@numba.njit
def exponentials(source, target, rows):
    for row in range(rows):
        store(target + 64 * row, exponential(load(source + 64 * row, zero_row("float32", 16))))


@numba.njit
def exponentials_of_doubles(source, target, rows):
    for row in range(rows):
        store(target + 64 * row, exponential(load(source + 64 * row, zero_row("float64", 8))))


@numba.njit
def halves(source, target, factor, rows):
    like = zero_row("bfloat16", 16)
    for row in range(rows):
        store(target + 32 * row, scaled(number(factor, like), load(source + 32 * row, like)))


@pytest.mark.parametrize(
    ("dtype", "function", "lowest"),
    [(torch.float32, exponentials, -87.0), (torch.float64, exponentials_of_doubles, -708.0)],
)
def test_exp_is_within_two_units_in_the_last_place(dtype, function, lowest):
    x = torch.cat([torch.linspace(lowest, 0, 64_000), -torch.rand(63_968), torch.linspace(0, 80, 32)]).to(
        dtype
    )
    out = torch.empty_like(x)
    function(x.data_ptr(), out.data_ptr(), x.nbytes // 64)
    expected = np.exp(x.numpy().astype(np.longdouble))
    relative = np.abs(out.numpy() / expected - 1).max()
    assert relative < 2 * torch.finfo(dtype).eps


def test_exp_keeps_nan_and_lets_the_smallest_vanish():
    x = torch.tensor([float("nan"), -torch.inf, -200.0, 0.0] * 4)
    out = torch.empty_like(x)
    exponentials(x.data_ptr(), out.data_ptr(), 1)
    assert out[0].isnan() and out[1:4].tolist() == [0, 0, 1]


def test_bfloat16_is_rounded_to_even_as_by_pytorch():
    x = torch.randn(16_000).to(torch.bfloat16)
    x[:3] = torch.tensor([float("nan"), torch.inf, -torch.inf])
    out = torch.empty_like(x)
    halves(x.data_ptr(), out.data_ptr(), 1.1, len(x) // 16)
    expected = (x.float() * torch.tensor(1.1)).to(torch.bfloat16)
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
