"""Castling's branch as state: what castle leaves alone, what a state dict restores, what the mass means."""

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from fibo_robot.attention import AttentionError, castle, place_attention, swap_attention
from fibo_robot.attention.cores import AngularCore, CastlingOptions
from fibo_robot.attention.swapping.swap import angular_cores
from fibo_robot.encoders import create_encoder, create_video_encoder


def sharp_vit(**options: object) -> Any:
    """A ViT whose softmax is sharp enough for the branch to pass something."""
    vit: Any = timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=3, num_heads=3)
    swap_attention(vit, "castling", threshold=1.05, **options)
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight.mul_(20)
    return vit


def test_a_failing_example_leaves_modes_and_branch_as_they_were():
    vit = sharp_vit().train()
    vit.blocks[1].eval()  # a frozen part
    before = {name: module.training for name, module in vit.named_modules()}
    with pytest.raises(AssertionError):
        castle(vit, torch.rand(1, 3, 32, 32))
    assert {name: module.training for name, module in vit.named_modules()} == before
    assert all(core.branch_enabled and core.branch_scale == 1 for _, core in angular_cores(vit))


def test_a_model_that_fails_without_its_branch_keeps_it():
    class FailsTheSecondTime(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit, self.calls = sharp_vit(), 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("out of memory")
            return self.vit(images)

    model = FailsTheSecondTime()
    with pytest.raises(RuntimeError, match="out of memory"):
        castle(model)
    assert all(core.branch_enabled and core.branch_scale == 1 for _, core in angular_cores(model))


def test_castle_leaves_frozen_parts_in_their_mode():
    vit = sharp_vit().train()
    vit.blocks[1].eval()
    before = {name: module.training for name, module in vit.named_modules()}
    castle(vit)
    assert {name: module.training for name, module in vit.named_modules()} == before


@pytest.mark.parametrize("mode", ["joint", "divided", "frames"])
def test_castle_and_place_attention_know_video_encoders(mode):
    encoder = create_video_encoder(
        "vit_micro", mode=mode, attention={"name": "castling", "threshold": 1.0}, frames=4, image_size=24
    )
    blocks: Any = encoder.vit.blocks
    places = [block.attn.grid for block in blocks]
    inside = nn.ModuleDict({"encoder": encoder})
    place_attention(inside)
    assert [block.attn.grid for block in blocks] == places
    with pytest.raises(AttentionError, match="image_size"):
        place_attention(encoder, image_size=(48, 48))
    assert castle(encoder).output_gap > 0


def test_castled_model_is_castled_after_saving_and_loading():
    vit, images = sharp_vit(branch_in_eval=True).eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = vit(images)
        castle(vit)
        castled = vit(images)
        copied = sharp_vit(branch_in_eval=True).eval()
        copied.load_state_dict(vit.state_dict())
        assert not torch.allclose(before, castled, rtol=1e-4)
        assert torch.equal(copied(images), castled)
    assert not any(core.branch_enabled for _, core in angular_cores(copied))


def test_a_state_dict_restores_a_scale_halfway_and_wakes_a_branch():
    vit, images = sharp_vit(branch_in_eval=True).eval(), torch.rand(2, 3, 64, 64)
    for _, core in angular_cores(vit):
        core.set_branch_scale(0.25)
    copied = sharp_vit(branch_in_eval=True).eval()
    castle(copied)
    copied.load_state_dict(vit.state_dict())
    assert [float(core.branch_scale) for _, core in angular_cores(copied)] == [0.25] * 3
    with torch.no_grad():
        assert torch.equal(copied(images), vit(images))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_mass_is_the_softmaxs_own_whatever_the_scale(scale):
    core = AngularCore(2, 8, CastlingOptions(threshold=1.5)).train()
    core.set_branch_scale(scale)
    q, k, v = torch.randn(3, 2, 2, 40, 8)
    core(q, k, v)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(8)).softmax(dim=-1)
    kept = weights * (weights > 1.5 / 40)
    torch.testing.assert_close(core.mass_passed, kept.sum() / weights.sum())
    core.set_branch_scale(0.0)
    assert core.mass_passed == 0


def test_castle_of_an_image_encoder_needs_no_example():
    encoder = create_encoder("vit_micro", attention={"name": "castling", "threshold": 1.0}, image_size=24)
    assert castle(encoder).output_gap > 0
