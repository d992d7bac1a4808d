"""Castling's branch: which weights it keeps, and that its blocks compute the plain formula."""

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from fibo_robot.attention import AttentionError, swap_attention
from fibo_robot.attention.backends.numba import branch as numba_branch
from fibo_robot.attention.castling import branch as castling_branch
from fibo_robot.attention.castling.branch import strongest_softmax, threshold_of_mass
from fibo_robot.attention.cores import AngularCore, CastlingOptions
from fibo_robot.attention.swapping.swap import angular_cores

SCALE = 8**-0.5


def qkv(batch: int, heads: int, tokens: int, sharpness: float = 1.0) -> Any:
    stacked = sharpness * torch.randn(batch, tokens, 3, heads, 8, dtype=torch.float64)
    return stacked.permute(2, 0, 3, 1, 4).unbind(0)  # strided, as a module hands them over


def softmax(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * SCALE).softmax(dim=-1)


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.5])
def test_each_heads_strongest_weights_carry_the_mass(mass, sharpness):
    """With every query sampled, dropping one more weight would leave less than the mass."""
    q, k, _ = qkv(4, 3, 8, sharpness)
    weights = softmax(q, k)
    kept = weights * (weights > threshold_of_mass(q, k, mass, SCALE)[:, None, None] / 8)
    share = kept.sum((0, 2, 3)) / weights.sum((0, 2, 3))
    weakest = kept.masked_fill(kept == 0, math.inf).amin((0, 2, 3)) / weights.sum((0, 2, 3))
    assert (share >= mass - 1e-6).all()
    assert (share - weakest < mass + 1e-3).all()


def test_a_sample_of_queries_finds_about_the_same_threshold():
    q, k, v = qkv(16, 2, 100, 2.0)
    threshold = threshold_of_mass(q, k, 0.5, SCALE)
    _, passed = strongest_softmax(q, k, v, threshold=threshold, scale=SCALE)
    assert passed.item() == pytest.approx(0.5, abs=0.05)
    assert threshold.shape == (2,) and not threshold.requires_grad


def test_equal_weights_pass_together():
    q, k, v = (tensor * factor for tensor, factor in zip(qkv(1, 2, 30), (0, 1, 1)))
    branch, passed = strongest_softmax(q, k, v, threshold=threshold_of_mass(q, k, 0.1, SCALE), scale=SCALE)
    assert passed.item() == pytest.approx(1)
    torch.testing.assert_close(branch, v.mean(dim=2, keepdim=True).expand_as(v))


@pytest.mark.parametrize("cached", [2**12, 2**17])
@pytest.mark.parametrize("tokens", [5, 129, 300])
def test_blocks_of_any_size_compute_the_dense_formula(monkeypatch, cached, tokens):
    monkeypatch.setattr(numba_branch, "CACHED_WEIGHTS", cached)
    q, k, v = (tensor.detach().requires_grad_() for tensor in qkv(3, 2, tokens, 1.5))
    threshold = torch.tensor([0.7, 2.0])
    weights = softmax(q, k)
    dense = (weights * (weights > threshold[:, None, None] / tokens)) @ v
    branch, _ = strongest_softmax(q, k, v, threshold=threshold, scale=SCALE)
    torch.testing.assert_close(branch, dense)
    grad = torch.randn_like(dense)
    expected = torch.autograd.grad(dense, (q, k, v), grad)
    torch.testing.assert_close(torch.autograd.grad(branch, (q, k, v), grad), expected)


@pytest.mark.parametrize("tokens", [5, 300])
def test_a_device_without_a_kernel_of_its_own_computes_the_same(tokens):
    q, k, v = qkv(2, 3, tokens, 1.5)
    cutoffs, grad = torch.tensor([0.7, 1.0, 2.0]) / tokens, torch.randn_like(q)
    out, passed, lse = castling_branch._branch_anywhere(q, k, v, cutoffs, SCALE)
    grads = castling_branch._branch_backward_anywhere(grad, q, k, v, out, lse, cutoffs, SCALE)
    expected = torch.ops.fibo_robot.strongest_softmax(q, k, v, cutoffs, SCALE)
    torch.testing.assert_close((out, passed, lse), expected)
    on_cpu = torch.ops.fibo_robot.strongest_softmax_backward(grad, q, k, v, out, lse, cutoffs, SCALE)
    torch.testing.assert_close(grads, on_cpu)


def test_operators_are_well_formed():
    q, k, v = (tensor.detach().float().requires_grad_() for tensor in qkv(2, 3, 20))
    arguments = (q, k, v, torch.full((3,), 0.05), SCALE)
    torch.library.opcheck(torch.ops.fibo_robot.strongest_softmax.default, arguments)


def test_a_second_derivative_is_refused():
    q, k, v = (tensor.detach().requires_grad_() for tensor in qkv(1, 2, 20))
    branch, _ = strongest_softmax(q, k, v, threshold=1.0, scale=SCALE)
    (grad,) = torch.autograd.grad(branch.square().sum(), q, create_graph=True)
    with pytest.raises(AttentionError, match="no second derivative: set its scale to 0"):
        grad.sum().backward()


def fresh_vit(**options: object) -> Any:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=112, embed_dim=96, depth=3, num_heads=3)
    swap_attention(vit, "castling", **options)
    vit.train()(torch.rand(4, 3, 112, 112))
    return vit


def test_branch_is_awake_before_the_first_step_and_asleep_with_the_released_threshold():
    for _, core in angular_cores(fresh_vit()):
        assert core.mass_passed.item() == pytest.approx(0.5, abs=0.05)
    for _, core in angular_cores(fresh_vit(threshold=4.0)):
        assert core.mass_passed == 0


def test_a_threshold_that_is_given_replaces_the_mass():
    q, k, v = (tensor.float() for tensor in qkv(2, 2, 40))
    core = AngularCore(2, 8, CastlingOptions(threshold=1.5, branch_mass=0.9)).train()
    core(q, k, v)
    weights = softmax(q, k)
    torch.testing.assert_close(core.mass_passed, (weights * (weights > 1.5 / 40)).sum() / weights.sum())


def test_nearly_uniform_weights_in_half_precision_still_pass_in_part():
    q, k, v = (tensor.to(torch.bfloat16) for tensor in qkv(8, 2, 64, 0.1))
    threshold = threshold_of_mass(q, k, 0.5, SCALE)
    branch, passed = strongest_softmax(q, k, v, threshold=threshold, scale=SCALE)
    assert branch.dtype == torch.bfloat16 and passed.item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("mass", [0, -0.5, 1.5])
def test_masses_that_cannot_be_are_refused(mass):
    with pytest.raises(AttentionError, match="branch_mass"):
        CastlingOptions(branch_mass=mass)
