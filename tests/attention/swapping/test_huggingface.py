"""Our attentions inside transformers models: same weights, right places, no effect on other models."""

import copy
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import timm
import torch

from fibo_robot.attention import (
    ATTENTIONS,
    AttentionError,
    castle,
    force_backend,
    place_attention,
    swap_attention,
)
from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.sparse.reference import reference_attention
from fibo_robot.attention.swapping.huggingface import INTERFACE, attention_forward
from fibo_robot.attention.swapping.swap import angular_cores
from fibo_robot.attention.wythoff import layer_offsets

transformers: Any = import_module("transformers") if find_spec("transformers") else None

pytestmark = pytest.mark.transformers

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": 40,
    "patch_size": 8,
    "initializer_range": 0.5,  # so that attention is far from uniform
}
IMAGES = (2, 3, 40, 40)
CLIPS = (2, 4, 3, 40, 40)


def vit(**settings):
    return transformers.ViTModel(transformers.ViTConfig(**SIZES, **settings)).eval()


def classifier():
    return transformers.ViTForImageClassification(
        transformers.ViTConfig.from_dict({**SIZES, "num_labels": 5})
    ).eval()


def dinov2():
    return transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, mlp_ratio=2)).eval()


def dinov2_with_registers():
    config = transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=3)
    return transformers.Dinov2WithRegistersModel(config).eval()


def videomae():
    return transformers.VideoMAEModel(
        transformers.VideoMAEConfig(**SIZES, num_frames=4, tubelet_size=2)
    ).eval()


def vivit():
    settings = {key: value for key, value in SIZES.items() if key != "patch_size"}
    config = transformers.VivitConfig(**settings, num_frames=4, tubelet_size=[2, 8, 8])
    return transformers.VivitModel(config).eval()


# What builds it, its input's shape, its prefix tokens, and the grid it knows of itself.
MODELS = [
    pytest.param(vit, IMAGES, 1, (1, 5, 5), id="vit"),
    pytest.param(classifier, IMAGES, 1, (1, 5, 5), id="classifier"),
    pytest.param(dinov2, IMAGES, 1, None, id="dinov2"),
    pytest.param(dinov2_with_registers, IMAGES, 4, None, id="dinov2_with_registers"),
    pytest.param(videomae, CLIPS, 0, (2, 5, 5), id="videomae"),
    pytest.param(vivit, CLIPS, 1, (2, 5, 5), id="vivit"),
]


def output(model, batch):
    out = model(batch)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def cores(model):
    return [module for module in model.modules() if isinstance(module, AttentionCore)]


@pytest.mark.parametrize(("build", "shape", "prefix", "grid"), MODELS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_softmax_equals_the_models_own_attention(build, shape, prefix, grid, implementation):
    model, batch = build(), torch.rand(shape)
    model.set_attn_implementation(implementation)
    expected = output(model, batch)
    report = swap_attention(model, "softmax")
    torch.testing.assert_close(output(model, batch), expected, rtol=1e-5, atol=1e-5)
    assert len(report.layers) == 2
    for layer in report.layers:
        assert any("q" in key for key in layer.kept) and not layer.new and not layer.dropped
        assert implementation in layer.before and layer.after.endswith("(softmax)")


@pytest.mark.parametrize(("build", "shape", "prefix", "grid"), MODELS)
def test_fibottention_equals_the_dense_mask_inside_the_model(build, shape, prefix, grid, monkeypatch):
    model, batch = build(), torch.rand(shape)
    with torch.no_grad():
        untouched = output(model, batch)
        layer_of = {}

        def dense(module, query, key, value, attention_mask, scaling=None, **_):
            layer = layer_of.setdefault(module, len(layer_of))
            offsets = layer_offsets(query.shape[2] - prefix, 3, layer, "paper")
            out = reference_attention(query, key, value, offsets, num_prefix_tokens=prefix, scale=scaling)
            return out.transpose(1, 2), None

        swap_attention(model, "fibottention")
        with force_backend("numba"):
            swapped = output(model, batch)
        assert [(core.layer_index, core.num_prefix_tokens, core.grid) for core in cores(model)] == [
            (0, prefix, grid),
            (1, prefix, grid),
        ]
        transformers.AttentionInterface.register(INTERFACE, dense)
        expected = output(model, batch)
        transformers.AttentionInterface.register(INTERFACE, attention_forward)
    assert len(layer_of) == 2
    torch.testing.assert_close(swapped, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(swapped, untouched, atol=1e-3)


@pytest.mark.parametrize("name", sorted(ATTENTIONS))
def test_every_attention_trains_reverses_and_reloads(name):
    model, batch = classifier(), torch.rand(IMAGES)
    keys, expected = set(model.state_dict()), output(model, batch)
    report = swap_attention(model, name)
    added = set(model.state_dict()) - keys
    assert keys <= set(model.state_dict())
    assert added == {f"{layer.path}.{key}" for layer in report.layers for key in layer.new}
    assert all(".core." in key for key in added)
    swapped = output(model.train(), batch)
    swapped.square().sum().backward()
    unused = [n for n, weight in model.named_parameters() if weight.grad is None]
    # Projections of q and k are called q_proj, query and so on, depending on transformers' version.
    assert all(n.split(".")[-2][0] in "qk" for n in unused) and bool(unused) == (name in ("tost", "afno"))

    other = classifier()
    swap_attention(other, name)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(output(other.eval(), batch), output(model.eval(), batch))

    report.restore()
    assert set(model.state_dict()) == keys
    assert torch.equal(output(model, batch), expected)


def test_models_built_from_one_config_do_not_disturb_each_other():
    config = transformers.ViTConfig(**SIZES)
    models = [transformers.ViTModel(config).eval() for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    batch = torch.rand(IMAGES)
    expected = output(models[0], batch)
    sparse = swap_attention(models[1], "fibottention")
    swap_attention(models[2], "castling")
    assert torch.equal(output(models[0], batch), expected)
    outputs = [output(model, batch) for model in models]
    assert not torch.allclose(outputs[1], outputs[2], atol=1e-3)
    sparse.restore()
    assert torch.equal(output(models[1], batch), expected)
    torch.testing.assert_close(output(models[2], batch), outputs[2])


def test_copy_of_a_swapped_model_stands_alone():
    model, batch = vit(), torch.rand(IMAGES)
    expected = output(model, batch)
    report = swap_attention(model, "fibottention")
    duplicate = copy.deepcopy(model)
    swapped = output(model, batch)
    report.restore()
    assert torch.equal(output(model, batch), expected)
    torch.testing.assert_close(output(duplicate, batch), swapped)


def test_second_swap_is_undone_to_the_first():
    model, batch = vit(), torch.rand(IMAGES)
    swap_attention(model, "fibottention")
    expected = output(model, batch)
    report = swap_attention(model, "castling")
    assert "DiagonalCore" in report.layers[0].before
    report.restore()
    assert torch.equal(output(model, batch), expected)


@pytest.mark.parametrize("build", [vit, dinov2, videomae])
def test_castle_reports_the_branchs_gap_and_closes_it(build):
    model = build()
    swap_attention(model, "castling", threshold=1.05)
    state = copy.deepcopy(model.state_dict())
    report = castle(model)
    assert report.output_gap > 0 and all(mass > 0 for mass in report.mass_passed)
    assert len(report.layers) == 2
    again = castle(model)
    assert again.output_gap == 0.0 and again.branch_scale == 0.0
    for key, value in model.state_dict().items():
        assert value == 0 if key.endswith("branch_scale") else torch.equal(state[key], value)
    assert all(not core.branch_enabled for _, core in angular_cores(model))


def test_model_for_any_image_size_learns_its_grid_from_place_attention():
    model, batch = dinov2(), torch.rand(1, 3, 24, 32)
    swap_attention(model, "castling", dwconv="grid")
    with pytest.raises(AttentionError, match="grid"):
        model(batch)
    place_attention(model, image_size=(24, 32))
    assert cores(model)[0].grid == (1, 3, 4)
    assert output(model, batch).shape == (1, 13, 24)


@pytest.mark.parametrize("name", ["afno", "castling", "fibottention"])
def test_what_goes_by_the_order_of_patches_follows_videomaes_tubelets_and_wants_them_all(name):
    model = videomae()
    swap_attention(model, name)
    assert output(model, torch.rand(CLIPS)).shape == (2, 50, 24)
    visible = torch.zeros(2, 50, dtype=torch.bool)
    visible[:, ::2] = True
    with pytest.raises(AttentionError, match="grid"):
        model(torch.rand(CLIPS), bool_masked_pos=visible)


def test_trunk_inside_a_project_of_ones_own_is_found():
    project = torch.nn.ModuleDict({"eyes": vit(), "head": torch.nn.Linear(24, 2)})
    report = swap_attention(project, "fibottention")
    assert all(layer.path.startswith("eyes.") and "layer" in layer.path for layer in report.layers)


def test_model_with_trunks_of_both_libraries_is_swapped_one_at_a_time():
    timms = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=1, num_heads=3)
    both = torch.nn.ModuleDict({"timm": timms, "transformers": vit()})
    with pytest.raises(AttentionError, match="one at a time"):
        swap_attention(both, "fibottention")
    assert len(swap_attention(both["timm"], "fibottention").layers) == 1
    assert len(swap_attention(both["transformers"], "fibottention").layers) == 2


def test_unfit_models_and_arguments_are_refused():
    swin = transformers.SwinModel(
        transformers.SwinConfig(image_size=32, embed_dim=8, depths=[1], num_heads=[2], window_size=4)
    )
    with pytest.raises(AttentionError, match=r"SwinModel.*VideoMAEModel"):
        swap_attention(swin, "fibottention")
    with pytest.raises(AttentionError, match="attention_probs_dropout_prob"):
        swap_attention(vit(attention_probs_dropout_prob=0.1), "fibottention")
    model = vit()
    swap_attention(model, "fibottention")
    q = torch.randn(1, 3, 26, 8)
    layer = next(module for module in model.modules() if hasattr(module, "core"))
    with pytest.raises(AttentionError, match="attention_mask"):
        attention_forward(layer, q, q, q, torch.zeros(1, 1, 26, 26))
    with pytest.raises(AttentionError, match="dropout"):
        attention_forward(layer, q, q, q, None, dropout=0.1)
