"""Video encoders: what a new one equals, what it can see, and what it refuses."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fibo_robot.attention import AttentionError
from fibo_robot.encoders import (
    EncoderError,
    VideoEncoder,
    WeightsReport,
    create_encoder,
    create_video_encoder,
)
from fibo_robot.encoders.video import VideoMode

SMALL: dict[str, Any] = {"image_size": 32, "patch_size": 8, "frames": 4}


def blocks_of(encoder: VideoEncoder) -> list[Any]:
    return list(encoder.vit.blocks)


def branches_of(encoder: VideoEncoder) -> list[Any]:
    return list(encoder.temporal)


def report_of(encoder: VideoEncoder) -> WeightsReport:
    assert encoder.weights_report is not None
    return encoder.weights_report


def still_clip(frames: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand(2, 3, 32, 32)
    return image, image[:, None].expand(-1, frames, -1, -1, -1)


@pytest.mark.parametrize("mode", ["joint", "divided", "frames"])
@pytest.mark.parametrize("attention", ["softmax", "fibottention", {"name": "castling", "dwconv": "grid"}])
@pytest.mark.parametrize("tubelet", [1, 2])
def test_clips_become_tokens_and_a_pooled_vector(mode, attention, tubelet):
    encoder = create_video_encoder("vit_micro", mode=mode, attention=attention, tubelet=tubelet, **SMALL)
    out = encoder(torch.rand(2, 4, 3, 32, 32))
    assert encoder.grid == (4 // tubelet, 4, 4)
    assert out.tokens.shape == (2, 1 + 4 // tubelet * 16, 128)
    assert out.pooled.shape == (2, 128)
    out.pooled.sum().backward()
    unused = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert unused == []


@pytest.mark.parametrize("mode", ["divided", "frames"])
@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("attention", ["softmax", "fibottention"])
def test_inflated_encoder_sees_a_still_clip_as_the_image_model_sees_the_picture(
    tmp_path, mode, pool, attention
):
    options: dict[str, Any] = {"attention": attention, "pool": pool, "image_size": 32, "patch_size": 8}
    image_model = create_encoder("vit_micro", **options).eval()
    weights = tmp_path / "image.safetensors"
    save_file(image_model.vit.state_dict(), weights)
    encoder = create_video_encoder(
        "vit_micro", mode=mode, tubelet=2, frames=4, pretrained=weights, **options
    ).eval()
    image, clip = still_clip()
    torch.testing.assert_close(encoder(clip).pooled, image_model(image).pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["divided", "frames"])
def test_inflated_distilled_model_keeps_its_distillation_token(tmp_path, mode):
    options: dict[str, Any] = {"image_size": 32, "patch_size": 8}
    image_model = create_encoder("deit_tiny_distilled_patch16_224", **options).eval()
    weights = tmp_path / "image.safetensors"
    save_file(image_model.vit.state_dict(), weights)
    encoder = create_video_encoder(
        "deit_tiny_distilled_patch16_224", mode=mode, frames=4, pretrained=weights, **options
    ).eval()
    image, clip = still_clip()
    torch.testing.assert_close(encoder(clip).pooled, image_model(image).pooled, rtol=1e-4, atol=1e-5)


def test_each_attention_knows_its_grid_and_layer():
    joint = create_video_encoder("vit_micro", mode="joint", attention="fibottention", tubelet=2, **SMALL)
    assert [(b.attn.layer_index, b.attn.num_prefix_tokens, b.attn.grid) for b in blocks_of(joint)] == [
        (layer, 1, (2, 4, 4)) for layer in range(4)
    ]
    divided = create_video_encoder(
        "vit_micro", mode="divided", attention="fibottention", temporal_attention="castling", **SMALL
    )
    assert {block.attn.grid for block in blocks_of(divided)} == {(1, 4, 4)}
    assert [(t.attn.name, t.attn.num_prefix_tokens, t.attn.grid) for t in branches_of(divided)] == [
        ("castling", 0, (4, 1, 1))
    ] * 4


def trained(encoder):
    """Give the branches that start at zero some weight, as training does."""
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "temporal" in name:
                parameter.normal_(std=0.5)
    return encoder.eval()


def test_divided_block_equals_timesformers_equations_token_by_token():
    """Over time at each place, then over space in each frame; class copies averaged before the MLP."""
    encoder = trained(create_video_encoder("vit_micro", mode="divided", **SMALL)).double()
    block, branch = blocks_of(encoder)[1], branches_of(encoder)[1]
    tokens = torch.randn(1, 1 + 4 * 16, 128, dtype=torch.float64)
    class_token, patches = tokens[0, 0], tokens[0, 1:].reshape(4, 16, 128)
    after_time = torch.empty_like(patches)
    for place in range(16):
        over_time = branch.attn(branch.norm(patches[None, :, place]))[0]
        after_time[:, place] = patches[:, place] + branch.proj(over_time)
    copies, after_space = [], []
    for frame in range(4):
        own = torch.cat([class_token[None], after_time[frame]])
        own = own + block.attn(block.norm1(own[None]))[0]
        copies.append(own[0])
        after_space.append(own[1:])
    before_mlp = torch.stack([torch.stack(copies).mean(0), *torch.cat(after_space)])
    expected = before_mlp + block.mlp(block.norm2(before_mlp))
    torch.testing.assert_close(encoder._divided_block(tokens, branch, block)[0], expected)


@pytest.mark.parametrize("temporal", ["softmax", "castling"])
def test_attention_over_time_starts_as_a_copy_of_that_over_space(temporal):
    options: dict[str, Any] = {"mode": "divided", "temporal_attention": temporal, **SMALL}
    encoder = create_video_encoder("vit_micro", **options)
    for branch, block in zip(branches_of(encoder), blocks_of(encoder), strict=True):
        for part in ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias"):
            own, spatial = branch.attn.get_parameter(part), block.attn.get_parameter(part)
            assert torch.equal(own, spatial) and own is not spatial
        assert torch.equal(branch.norm.weight, block.norm1.weight)
        assert not branch.proj.weight.any() and not branch.proj.bias.any()
        assert branch.attn.name == temporal


def test_attention_over_time_is_dropped_with_the_blocks_depth():
    encoder = trained(create_video_encoder("vit_micro", mode="divided", drop_path_rate=0.6, **SMALL)).train()
    last, patches = branches_of(encoder)[-1], torch.randn(200, 4, 2, 128)
    dropped = (last(patches) == 0).flatten(1).all(dim=1)
    assert 0.45 < dropped.float().mean() < 0.75  # whole clips, at the rate of the deepest layer
    assert (last.eval()(patches) != 0).any(dim=-1).all()
    assert (branches_of(encoder)[0].train()(patches) != 0).any(dim=-1).all()


def test_order_of_frames_matters_except_to_the_control():
    clip = torch.rand(2, 4, 3, 32, 32)
    modes: tuple[tuple[VideoMode, bool], ...] = (("joint", True), ("divided", True), ("frames", False))
    for mode, sees_order in modes:
        encoder = trained(create_video_encoder("vit_micro", mode=mode, **SMALL))
        same = torch.allclose(encoder(clip).pooled, encoder(clip.flip(1)).pooled, atol=1e-4)
        assert same is not sees_order, mode


def test_joint_tokens_are_ordered_raster_within_a_frame_then_time():
    encoder = create_video_encoder("vit_micro", mode="joint", tubelet=1, **SMALL).eval()
    clip = torch.zeros(1, 4, 3, 32, 32)
    changed = clip.clone()
    changed[0, 2, :, 8:16, 24:32] = 1  # frame 2, patch row 1, patch column 3
    difference = (encoder.embed(changed) - encoder.embed(clip)).flatten(1, 2).abs().sum(-1)
    assert difference.nonzero().tolist() == [[0, 2 * 16 + 1 * 4 + 3]]


def test_bytes_and_floats_mean_the_same_clip():
    encoder = create_video_encoder("vit_micro", **SMALL).eval()
    clip = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(encoder(clip).pooled, encoder(clip.float() / 255).pooled)


@pytest.mark.parametrize("mode", ["joint", "divided", "frames"])
def test_gradient_checkpointing_changes_no_gradient(mode):
    encoder = create_video_encoder("vit_micro", mode=mode, **SMALL)
    clip = torch.rand(2, 4, 3, 32, 32)
    gradients = []
    for encoder.gradient_checkpointing in (False, True):
        encoder.zero_grad()
        encoder(clip).pooled.square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"mode": "joined"}, EncoderError, "divided"),
        ({"tubelet": 3}, EncoderError, "tubelet"),
        ({"frames": 0}, EncoderError, "frames"),
        ({"temporal_attention": "softmx"}, AttentionError, "softmax"),
    ],
)
def test_bad_requests_are_named(arguments, error, named):
    with pytest.raises(error, match=named):
        create_video_encoder("vit_micro", **{**SMALL, **arguments})


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vitamin_small_224"])
def test_vit_behind_a_convolutional_network_is_refused(name):
    with pytest.raises(EncoderError, match="HybridEmbed"):
        create_video_encoder(name, frames=2, image_size=64)


@pytest.mark.parametrize("shape", [(1, 3, 3, 32, 32), (1, 4, 3, 40, 32), (4, 3, 32, 32), (1, 3, 4, 32, 32)])
def test_clip_of_another_shape_is_refused(shape):
    with pytest.raises(EncoderError, match="clips"):
        create_video_encoder("vit_micro", **SMALL)(torch.rand(shape))


@pytest.mark.parametrize("mode", ["joint", "divided"])
def test_the_encoder_of_a_trained_classifier_goes_on(tmp_path, mode):
    first = trained(create_video_encoder("vit_micro", mode=mode, **SMALL))
    state = {f"encoder.{key}": value for key, value in first.state_dict().items()}
    save_file(state | {"head.weight": torch.zeros(7, 128)}, tmp_path / "model.safetensors")
    options: dict[str, Any] = {"mode": mode, "pretrained": tmp_path / "model.safetensors"}
    second = create_video_encoder("vit_micro", **SMALL, **options).eval()
    clip = torch.rand(1, 4, 3, 32, 32)
    torch.testing.assert_close(second(clip).tokens, first(clip).tokens)
    assert report_of(second).unexpected == ("head.weight",) and report_of(second).missing == ()
    longer = create_video_encoder("vit_micro", **{**SMALL, "frames": 8}, **options)
    assert report_of(longer).resized == ("temporal_embed",)
    # A frame of the longer clip lies a quarter of the way to the neighbour that it is nearer to.
    found, known = longer.temporal_embed[:, 3], first.temporal_embed
    torch.testing.assert_close(found, 0.75 * known[:, 1] + 0.25 * known[:, 2])


@pytest.mark.data
def test_real_image_weights_inflate(shared_data):
    path = shared_data / "weights/vit_small_patch14.safetensors"
    options: dict[str, Any] = {"pretrained": path, "image_size": 56}
    image_model = create_encoder("vit_small_patch14_dinov2", **options).eval()
    encoder = create_video_encoder("vit_small_patch14_dinov2", mode="divided", frames=2, **options).eval()
    assert report_of(encoder).missing == () and report_of(encoder).unexpected == ()
    image = torch.rand(1, 3, 56, 56)
    with torch.no_grad():
        pooled = encoder(image[:, None].expand(-1, 2, -1, -1, -1)).pooled
        torch.testing.assert_close(pooled, image_model(image).pooled, rtol=1e-4, atol=1e-4)
