"""The comparators inside timm ViTs and our encoders, in low precision, and as config files name them."""

import importlib.resources
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from fibo_robot.attention import ATTENTIONS, AttentionConfig, AttentionError, place_attention, swap_attention
from fibo_robot.encoders import create_encoder, create_video_encoder
from tests.attention.comparators.cases import HEAD_DIM, HEADS, NAMES, SMALL, placed


@pytest.mark.parametrize("name", NAMES)
def test_swap_into_a_vit_trains_reverses_and_reloads(name):
    def vit():
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=80, embed_dim=48, depth=2, num_heads=3, num_classes=5
        )

    model, batch = vit().eval(), torch.randn(2, 3, 80, 80)
    untouched = model(batch)
    report = swap_attention(model, name, **SMALL.get(name, {}))
    assert [layer.path for layer in report.layers] == ["blocks.0.attn", "blocks.1.attn"]
    assert all(layer.dropped == () for layer in report.layers)
    assert all(key.startswith("core.") for layer in report.layers for key in layer.new)
    swapped = model(batch)
    assert not torch.allclose(swapped, untouched, rtol=1e-6, atol=1e-7)
    swapped.square().sum().backward()
    assert [n for n, weight in model.named_parameters() if weight.grad is None] == []

    copy = vit().eval()
    swap_attention(copy, name, **SMALL.get(name, {}))
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy(batch), swapped)

    report.restore()
    assert torch.equal(model(batch), untouched)


@pytest.mark.parametrize("name", NAMES)
def test_class_can_be_timms_attn_layer(name):
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, embed_dim=12, depth=2, num_heads=3, attn_layer=ATTENTIONS[name]
    )
    place_attention(model)
    assert model(torch.randn(1, 3, 48, 48)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_module_answers_the_same_after_its_export(name):
    module = placed(name, layer=7).eval()
    x = torch.randn(2, 21, HEADS * HEAD_DIM, dtype=torch.float64)
    exported = torch.export.export(module, (x,), strict=False)
    torch.testing.assert_close(exported.module()(x), module(x))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_autocast_gives_finite_gradients(name):
    module = placed(name).float()
    x = torch.randn(2, 21, HEADS * HEAD_DIM, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_modules_stay_near_double(name):
    module = placed(name)
    x = torch.randn(2, 21, HEADS * HEAD_DIM, dtype=torch.float64)
    expected = module(x)
    out = module.to(torch.bfloat16)(x.to(torch.bfloat16))
    torch.testing.assert_close(out.double(), expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", ["linformer", "afno", "bigbird"])
def test_video_encoder_places_it_on_its_space_time_grid(name):
    encoder = create_video_encoder(
        "vit_micro", mode="joint", attention={"name": name}, frames=4, tubelet=2, image_size=36
    )
    assert encoder(torch.rand(1, 4, 3, 36, 36)).tokens.shape == (1, 1 + 2 * 9, 128)


@pytest.mark.parametrize("name", ["linformer", "afno"])
def test_grid_of_a_model_for_any_image_size_is_said_by_place_attention(name):
    model: Any = timm.create_model(
        "vit_tiny_patch16_224", depth=1, embed_dim=12, num_classes=0, dynamic_img_size=True
    )
    swap_attention(model, name)
    batch = torch.randn(1, 3, 48, 64)
    with pytest.raises(AttentionError, match="place_attention"):
        model(batch)
    place_attention(model, image_size=(48, 64))
    assert model.blocks[0].attn.grid == (1, 3, 4)
    assert model(batch).isfinite().all()


def test_refused_swap_leaves_the_model_as_it_was():
    model: Any = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=12, num_classes=0)
    model.blocks[1].attn.attn_drop.p = 0.1
    before = [block.attn for block in model.blocks]
    with pytest.raises(AttentionError, match="attn_drop"):
        swap_attention(model, "linformer")
    assert [block.attn for block in model.blocks] == before


@pytest.mark.parametrize(
    ("attention", "named"),
    [
        ({"name": "window", "windw": 8}, "'window'"),
        ({"name": "window", "window": 7}, "even"),
        ({"name": "bigbird", "block_size": 0}, "block_size"),
        ({"name": "bigbird", "random_blocks": 1.5}, "random_blocks"),
        ({"name": "linformer", "projected_tokens": 0}, "projected_tokens"),
        ({"name": "afno", "sparsity_threshold": -1}, "sparsity_threshold"),
        ({"name": "tost", "temperature": 1}, "no options"),
        ({"name": "linforer"}, "'linformer'"),
    ],
)
def test_unknown_names_and_options_are_refused(attention, named):
    with pytest.raises(AttentionError, match=named):
        AttentionConfig.parse(attention)


@pytest.mark.parametrize("name", sorted(ATTENTIONS))
def test_config_file_names_every_option_with_its_default(name):
    file = importlib.resources.files("fibo_robot.conf") / "attention" / f"{name}.yaml"
    assert yaml.safe_load(file.read_text()) == AttentionConfig.parse(name).to_dict()


def test_weights_file_of_a_trained_comparator_loads_into_a_new_encoder(tmp_path):
    trained = create_encoder("vit_micro", attention="linformer")
    save_file(trained.vit.state_dict(), tmp_path / "vit.safetensors")
    encoder = create_encoder("vit_micro", attention="linformer", pretrained=tmp_path / "vit.safetensors")
    assert encoder.weights_report is not None
    assert encoder.weights_report.new == encoder.weights_report.missing == ()
    images = torch.rand(1, 3, 84, 84)
    assert torch.equal(encoder.eval()(images).pooled, trained.eval()(images).pooled)
