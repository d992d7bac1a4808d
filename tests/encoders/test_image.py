"""Image encoders: what goes in, what comes out, and where pretrained weights went."""

from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fibo_robot.attention import AttentionError
from fibo_robot.encoders import PRESETS, EncoderError, WeightsError, create_encoder

WEIGHTS = "weights/vit_small_patch14.safetensors"


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("attention", ["softmax", "fibottention", {"name": "castling", "dwconv": "grid"}])
def test_presets_turn_images_into_tokens_and_a_pooled_vector(name, attention):
    encoder = create_encoder(name, attention=attention)
    out = encoder(torch.rand(2, 3, 84, 84))
    assert encoder.grid_size == (7, 7) and encoder.num_patches == 49 and encoder.num_prefix_tokens == 1
    assert out.tokens.shape == (2, 50, PRESETS[name].embed_dim)
    assert out.pooled.shape == (2, encoder.embed_dim)
    torch.testing.assert_close(out.pooled, out.tokens[:, 1:].mean(dim=1), rtol=1e-4, atol=1e-5)


def test_bytes_and_floats_mean_the_same_image():
    encoder = create_encoder("vit_micro").eval()
    pixels = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(encoder(pixels).pooled, encoder(pixels.float() / 255).pooled)


@pytest.mark.parametrize("weights", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("images", [torch.float16, torch.float32, torch.float64])
def test_floats_of_any_precision_are_images(images, weights):
    encoder = create_encoder("vit_micro").eval().to(weights)
    pixels = torch.rand(2, 3, 84, 84).to(images)
    out = encoder(pixels).pooled
    assert out.dtype == weights
    torch.testing.assert_close(out, encoder(pixels.to(weights)).pooled)


def test_encoder_normalises_as_timm_says():
    encoder = create_encoder("deit_tiny_patch16_224", image_size=32).eval()
    pixels = torch.rand(1, 3, 32, 32)
    published: Any = encoder.vit.pretrained_cfg
    mean, std = (torch.tensor(published[key])[:, None, None] for key in ("mean", "std"))
    expected = encoder.vit.forward_features((pixels - mean) / std)
    torch.testing.assert_close(encoder(pixels).tokens, expected)


def test_sizes_and_pooling_can_be_chosen():
    encoder = create_encoder("vit_micro", image_size=(48, 64), patch_size=8, pool="token").eval()
    out = encoder(torch.rand(1, 3, 48, 64))
    assert encoder.grid_size == (6, 8)
    torch.testing.assert_close(out.pooled, out.tokens[:, 0])


@pytest.mark.parametrize(
    "images", [torch.rand(1, 3, 80, 84), torch.rand(3, 84, 84), torch.rand(1, 1, 84, 84)]
)
def test_wrong_image_size_is_refused(images):
    with pytest.raises(EncoderError, match="images"):
        create_encoder("vit_micro")(images)


def test_integer_images_other_than_bytes_are_refused():
    with pytest.raises(EncoderError, match="uint8"):
        create_encoder("vit_micro")(torch.zeros(1, 3, 84, 84, dtype=torch.int64))


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"name": "vit_mirco"}, EncoderError, "vit_micro"),
        ({"name": "resnet18"}, EncoderError, "ResNet"),
        ({"name": "vit_micro", "attention": "softmx"}, AttentionError, "'softmax'"),
        ({"name": "vit_micro", "pool": "mean"}, EncoderError, "token, avg"),
        ({"name": "vit_base_patch16_siglip_224", "pool": "token"}, EncoderError, "class token"),
        ({"name": "deit_tiny_distilled_patch16_224", "pool": "avg"}, EncoderError, "distillation"),
        ({"name": "vit_micro", "image_size": 0}, EncoderError, "image_size"),
        ({"name": "vit_micro", "image_size": (84, -84)}, EncoderError, "image_size"),
        ({"name": "vit_micro", "patch_size": 0}, EncoderError, "patch_size"),
        ({"name": "vit_micro", "image_size": 8}, EncoderError, "no patch of"),
        ({"name": "vit_micro", "pretrained": True}, WeightsError, "no published weights"),
        ({"name": "vit_micro", "pretrained": "absent.safetensors"}, WeightsError, "absent.safetensors"),
    ],
)
def test_bad_requests_are_named(arguments, error, named):
    with pytest.raises(error, match=named):
        create_encoder(**arguments)


def test_every_key_of_a_file_is_accounted_for(tmp_path):
    donor = create_encoder("vit_micro", image_size=48).vit.state_dict()
    del donor["norm.bias"]
    donor["head.weight"] = torch.zeros(5, 128)
    path = tmp_path / "donor.safetensors"
    save_file(donor, path)
    encoder = create_encoder("vit_micro", attention="castling", pretrained=path)
    report = encoder.weights_report
    assert report is not None
    assert report.resized == ("pos_embed",)
    assert report.missing == ("norm.bias",)
    assert report.unexpected == ("head.weight",)
    own = ("branch_scale", "dwconv.weight")
    assert report.new == tuple(f"blocks.{i}.attn.core.{name}" for i in range(4) for name in own)
    assert set(report.loaded) == set(donor) - {"pos_embed", "head.weight"}
    key = "blocks.2.attn.qkv.weight"
    assert torch.equal(encoder.vit.get_parameter(key), donor[key])


def test_file_of_another_architecture_is_refused(tmp_path):
    path = tmp_path / "mini.safetensors"
    save_file(create_encoder("vit_mini").vit.state_dict(), path)
    with pytest.raises(WeightsError, match="another architecture"):
        create_encoder("vit_micro", pretrained=path)


def test_file_that_is_no_safetensors_is_refused(tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\x80\x04 this is not safetensors")
    with pytest.raises(WeightsError, match="not a readable"):
        create_encoder("vit_micro", pretrained=path)


@pytest.mark.data
def test_real_weights_give_timms_own_features(shared_data):
    name, path = "vit_small_patch14_dinov2", shared_data / WEIGHTS
    timm_vit: Any = timm.create_model(name, num_classes=0).eval()
    timm_vit.load_state_dict(load_file(path))
    encoder = create_encoder(name, pretrained=path).eval()
    report = encoder.weights_report
    assert report is not None
    assert len(report.loaded) == 174
    assert (report.resized, report.new, report.missing, report.unexpected) == ((), (), (), ())
    pixels = torch.rand(1, 3, 518, 518)
    with torch.no_grad():
        expected = timm_vit.forward_features((pixels - encoder.normalise.mean) / encoder.normalise.std)
        torch.testing.assert_close(encoder(pixels).tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.data
def test_real_weights_stay_under_swapped_attention(shared_data):
    encoder = create_encoder(
        "vit_small_patch14_dinov2",
        attention="fibottention",
        pretrained=shared_data / WEIGHTS,
        image_size=112,
    ).eval()
    report = encoder.weights_report
    assert report is not None
    assert report.resized == ("pos_embed",) and len(report.loaded) == 173
    assert (report.new, report.missing, report.unexpected) == ((), (), ())
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 112, 112)).pooled.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["softmax", "fibottention", "castling"])
def test_encoder_compiles_without_a_graph_break(attention):
    encoder = create_encoder("vit_micro", attention=attention)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")  # breaks show in tracing
    pixels = torch.rand(2, 3, 84, 84)
    for mode in (True, False):
        encoder.train(mode)
        torch.testing.assert_close(compiled(pixels).pooled, encoder(pixels).pooled, rtol=1e-4, atol=1e-4)


def test_encoder_exports():
    encoder = create_encoder("vit_micro", attention="fibottention").eval()
    pixels = torch.rand(2, 3, 84, 84)
    exported = torch.export.export(encoder, (pixels,))
    torch.testing.assert_close(exported.module()(pixels).pooled, encoder(pixels).pooled)
