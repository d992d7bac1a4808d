"""Castling's module: its formula, its branch in training, and what castling a model changes."""

import math
from typing import Any

import pytest
import torch

from fibo_robot.attention import AttentionError, castle, create_attention, swap_attention
from fibo_robot.attention.castling.branch import strongest_softmax
from fibo_robot.attention.swapping.swap import angular_cores
from tests.attention.test_modules import images, small_vit


def angular_by_hand(q, k, v, const_term):
    """Castling's formula with the N x N similarity written out."""
    cosine = torch.nn.functional.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    linear = cosine @ v / math.pi
    if const_term == "own":
        return 0.5 * v + linear
    whole = v.sum(dim=-2, keepdim=True)
    return linear + 0.5 * (whole if const_term == "sum" else whole / v.shape[-2])


def kept_softmax_by_hand(q, k, v, threshold):
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return (weights * (weights > threshold / q.shape[-2])) @ v


@pytest.mark.parametrize("const_term", ["own", "sum", "mean"])
@pytest.mark.parametrize("training", [True, False])
def test_castling_equals_its_formula(const_term, training):
    options = {"name": "castling", "const_term": const_term, "threshold": 1.5}
    module = create_attention(options, 24, 3, layer_index=0, num_prefix_tokens=1)
    core: Any = module.core.double().train(training)
    q, k, v = (2 * torch.randn(2, 3, 300, 8, dtype=torch.float64) for _ in range(3))
    expected = angular_by_hand(q, k, v, const_term)
    if training:
        expected = expected + kept_softmax_by_hand(q, k, v, 1.5)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    taps = core.dwconv.weight.detach()[:, 0, :, 0]
    padded = torch.nn.functional.pad(v, (0, 0, 4, 4))
    for tap in range(9):
        expected = expected + taps[None, :, tap, None, None] * padded[:, :, tap : tap + 300]
    torch.testing.assert_close(core(q, k, v), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dwconv", ["tokens", "grid"])
@pytest.mark.parametrize("const_term", ["own", "sum", "mean"])
@pytest.mark.parametrize(("frames", "head_dim"), [(1, 64), (40, 5), (600, 32)])
def test_castling_inference_equals_what_is_trained(monkeypatch, dwconv, const_term, frames, head_dim):
    options = {"name": "castling", "const_term": const_term, "dwconv": dwconv}
    module = create_attention(
        options, 2 * head_dim, 2, layer_index=0, num_prefix_tokens=1, grid=(frames, 2, 2)
    )
    core = module.core.double().eval()
    stacked = torch.randn(2, 1 + 4 * frames, 3, 2, head_dim, dtype=torch.float64)
    stacked[0, 0] = 0
    q, k, v = stacked.permute(2, 0, 3, 1, 4)
    expected = core(q, k, v)
    with torch.no_grad():
        monkeypatch.delattr("fibo_robot.attention.castling.angular.linear_angular")
        monkeypatch.delattr("fibo_robot.attention.cores.linear_angular")
        torch.testing.assert_close(core(q, k, v), expected, rtol=1e-10, atol=1e-10)


def test_branch_gradient_equals_the_dense_formula():
    q, k, v = (torch.randn(1, 2, 200, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    grad = torch.randn(1, 2, 200, 8, dtype=torch.float64)
    out, _ = strongest_softmax(q, k, v, threshold=1.5, scale=8**-0.5)
    dense = kept_softmax_by_hand(q, k, v, 1.5)
    torch.testing.assert_close(out, dense)
    blockwise = torch.autograd.grad(out, (q, k, v), grad)
    torch.testing.assert_close(blockwise, torch.autograd.grad(dense, (q, k, v), grad))


def test_branch_operator_is_well_formed():
    q, k, v = (torch.randn(1, 2, 150, 4, requires_grad=True) for _ in range(3))
    arguments = (q, k, v, torch.tensor([0.01, 0.005]), 0.5)
    torch.library.opcheck(torch.ops.fibo_robot.strongest_softmax.default, arguments)


def test_zero_token_gives_no_nan():
    module = create_attention("castling", 24, 3, layer_index=0, num_prefix_tokens=1, qkv_bias=False)
    x = torch.randn(1, 17, 24)
    x[:, 3] = 0
    x.requires_grad_()
    out = module(x)
    out.sum().backward()
    assert out.isfinite().all() and x.grad is not None and x.grad.isfinite().all()


def sharp_castling_vit():
    """A ViT whose softmax is sharp enough for the branch to pass something."""
    vit = small_vit()
    swap_attention(vit, "castling", threshold=1.05)
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight.mul_(20)
    return vit


def test_branch_runs_in_training_only_and_castle_reports_its_gap():
    vit, batch = sharp_castling_vit(), images()
    state = {key: value.clone() for key, value in vit.state_dict().items()}
    with torch.no_grad():
        training, evaluation = vit.train()(batch), vit.eval()(batch)
        report = castle(vit, batch)
        assert report.output_gap == (training - evaluation).abs().max().item() > 0
        assert all(mass > 0 for mass in report.mass_passed)
        assert torch.equal(vit(batch), evaluation)
        assert torch.equal(vit.train()(batch), evaluation)
    for key, value in vit.state_dict().items():
        assert value == 0 if key.endswith("branch_scale") else torch.equal(state[key], value)


def test_castling_changes_nothing_after_the_schedule_has_ended():
    vit, batch = sharp_castling_vit(), images()
    for _, core in angular_cores(vit):
        core.set_branch_scale(0.0)
    before = vit.train()(batch)
    report = castle(vit)
    assert report.output_gap == 0.0 and report.branch_scale == 0.0 and report.mass_passed == (0.0,) * 3
    assert torch.equal(vit.eval()(batch), before)


def test_castle_refuses_a_model_without_castling():
    with pytest.raises(AttentionError, match="no CastlingAttention"):
        castle(small_vit())


def test_grid_convolution_leaves_prefix_tokens_alone_and_reaches_neighbours_in_time():
    module: Any = create_attention(
        {"name": "castling", "dwconv": "grid"}, 12, 2, layer_index=0, num_prefix_tokens=1, grid=(3, 4, 5)
    )
    v = torch.zeros(1, 2, 61, 6)
    centre = 1 + (1 * 20 + 2 * 5 + 2)
    v[:, :, centre] = 1.0
    reached = module.core._convolve_grid(v).abs().sum(dim=(0, 1, 3)) > 0
    expected = {1 + t * 20 + y * 5 + x for t in (0, 1, 2) for y in (1, 2, 3) for x in (1, 2, 3)}
    assert set(reached.nonzero().flatten().tolist()) == expected
