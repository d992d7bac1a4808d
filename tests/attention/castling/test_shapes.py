"""Castling's core against its formula in float64, whatever the shape, with and without gradients."""

import math
from contextlib import nullcontext
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from fibo_robot.attention.castling.angular import CONSTANT_TERMS, ConstantTerm
from fibo_robot.attention.cores import AngularCore, CastlingOptions
from tests.properties import given, settings, st


def formula(core, q, k, v):
    """Token by token over the N x N cosines; the branch is off."""
    cosine = F.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    constant = {"own": v, "sum": v.sum(2, keepdim=True), "mean": v.mean(2, keepdim=True)}
    mixed = 0.5 * constant[core.options.const_term] + cosine @ v / math.pi
    mixed = mixed / mixed.norm(dim=-1, keepdim=True)
    padded = F.pad(v, (0, 0, 4, 4))
    taps = core.dwconv.weight.flatten(1)
    windows = padded.unfold(2, 9, 1)  # (B, heads, N, head_dim, 9)
    return mixed + torch.einsum("bhndt,ht->bhnd", windows, taps)


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 90),
    batch=st.integers(1, 2),
    heads=st.integers(1, 4),
    head_dim=st.sampled_from([2, 3, 16, 64]),
    const_term=st.sampled_from(CONSTANT_TERMS),
    with_gradients=st.booleans(),
    strided=st.booleans(),
)
def test_equals_the_formula_whatever_the_shape(
    tokens, batch, heads, head_dim, const_term, with_gradients, strided
):
    torch.manual_seed(0)  # hypothesis repeats an example and must see the same numbers
    core = AngularCore(heads, head_dim, CastlingOptions(const_term=const_term)).eval().double()
    q, k, v = torch.randn(3, batch, heads, tokens, head_dim, dtype=torch.float64)
    if strided:  # as a qkv projection leaves them
        q, k, v = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (q, k, v))
    with nullcontext() if with_gradients else torch.no_grad():
        out = core(q, k, v)
    torch.testing.assert_close(out, formula(core, q, k, v), rtol=1e-8, atol=1e-8)


@settings(max_examples=10, deadline=None)
@given(tokens=st.integers(1, 40), heads=st.integers(1, 3), const_term=st.sampled_from(CONSTANT_TERMS))
def test_gradients_equal_the_formulas(tokens, heads, const_term):
    torch.manual_seed(0)
    core = AngularCore(heads, 8, CastlingOptions(const_term=const_term)).eval().double()
    inputs = [torch.randn(1, heads, tokens, 8, dtype=torch.float64).requires_grad_() for _ in range(3)]
    upstream = torch.randn(1, heads, tokens, 8, dtype=torch.float64)
    grads = torch.autograd.grad(core(*inputs), inputs, upstream)
    torch.testing.assert_close(grads, torch.autograd.grad(formula(core, *inputs), inputs, upstream))


def test_inference_works_on_tensors_that_are_not_real():
    core = AngularCore(2, 8, CastlingOptions()).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        q = torch.empty(1, 2, 5, 8)
        assert core(q, q, q).shape == q.shape


@pytest.mark.parametrize("taps", [0, 9])
def test_devices_without_a_kernel_compute_the_same_inference(taps):
    from fibo_robot.attention.castling import angular

    q, k, v = torch.randn(3, 2, 3, 40, 8, dtype=torch.float64)
    filters = torch.randn(3, taps, dtype=torch.float64)
    for const_term in get_args(ConstantTerm):
        own = angular.castling_inference(q, k, v, const_term, filters)
        general = angular._inference_anywhere(q, k, v, const_term, filters)
        torch.testing.assert_close(own, general)


def test_inference_operator_is_well_formed():
    q, k, v = torch.randn(3, 1, 2, 12, 8)
    arguments = (q, k, v, "own", torch.randn(2, 9))
    torch.library.opcheck(torch.ops.fibo_robot.castling_inference.default, arguments)
