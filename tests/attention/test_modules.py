"""The modules inside timm ViTs: same weights, same masks in training and evaluation, clear refusals."""

import warnings
from typing import Any

import pytest
import timm
import timm.layers.config as fused
import torch

from fibo_robot.attention import (
    ATTENTIONS,
    AttentionConfig,
    AttentionError,
    Fibottention,
    create_attention,
    place_attention,
    swap_attention,
)
from fibo_robot.attention.sparse.reference import dense_mask
from fibo_robot.attention.wythoff import head_offsets, layer_order

OPTIONS = [
    {"name": "softmax"},
    {"name": "fibottention"},
    {"name": "fibottention", "rule": "robot_release", "mask_mode": "zero_logit"},
    {"name": "castling"},
    {"name": "castling", "dwconv": "grid", "const_term": "mean"},
]


def small_vit(**arguments) -> Any:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=3, num_heads=3, num_classes=5, **arguments
    )


def images():
    return torch.randn(2, 3, 64, 64)


def seen_keys(core, num_tokens, num_prefix_tokens):
    """Which keys each query of each head depends on, measured by changing one value at a time."""
    q, k, v = (torch.randn(1, core.num_heads, num_tokens, core.head_dim) for _ in range(3))
    before = core(q, k, v)
    seen = torch.zeros(core.num_heads, num_tokens, num_tokens, dtype=torch.bool)
    for key in range(num_tokens):
        changed = v.clone()
        changed[:, :, key] += 10.0
        seen[:, :, key] = (core(q, k, changed) != before).any(dim=-1)[0]
    return seen


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_prefix_tokens", [0, 1])
def test_mask_of_a_layer_is_the_same_in_training_and_evaluation(training, num_prefix_tokens):
    for layer in range(3):
        module = create_attention(
            "fibottention", 24, 3, layer_index=layer, num_prefix_tokens=num_prefix_tokens
        ).train(training)
        heads = head_offsets(16, 3)
        offsets = [heads[head] for head in layer_order(layer, 3)]
        expected = dense_mask(offsets, 16 + num_prefix_tokens, num_prefix_tokens)
        assert torch.equal(seen_keys(module.core, 16 + num_prefix_tokens, num_prefix_tokens), expected)


@pytest.fixture(params=[True, False], ids=["fused", "unfused"])
def timms_fused_flag(request):
    before = fused.use_fused_attn()
    fused.set_fused_attn(request.param)
    yield
    fused.set_fused_attn(before)


@pytest.mark.usefixtures("timms_fused_flag")
def test_fused_attention_flag_of_timm_never_skips_the_mask():
    vit = small_vit(attn_layer=Fibottention)
    place_attention(vit)
    core = vit.blocks[0].attn.core
    assert torch.equal(seen_keys(core, 17, 1), dense_mask(core.offsets(17), 17, 1))


def test_dense_attention_equals_timm():
    vit = small_vit().eval()
    expected = vit(images_ := images())
    report = swap_attention(vit, "softmax")
    torch.testing.assert_close(vit(images_), expected, rtol=1e-5, atol=1e-5)
    assert all(layer.kept and not layer.new and not layer.dropped for layer in report.layers)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("qk_norm", [False, True])
def test_swap_keeps_weights_and_is_reversible(options, qk_norm):
    vit = small_vit(qk_norm=qk_norm).eval()
    keys, batch = list(vit.state_dict()), images()
    expected = vit(batch)
    report = swap_attention(vit, **options)
    assert [layer.path for layer in report.layers] == [f"blocks.{i}.attn" for i in range(3)]
    added = [key for key in vit.state_dict() if key not in keys]
    assert [key for key in vit.state_dict() if key in keys] == [key for key in keys if key not in added]
    assert {key.split(".", 3)[-1] for key in added} <= {"core.dwconv.weight", "core.branch_scale"}
    assert bool(added) == (options["name"] == "castling")
    if options["name"] != "softmax":
        assert not torch.allclose(vit(batch), expected, rtol=1e-6, atol=1e-7)
    report.restore()
    assert torch.equal(vit(batch), expected)


def test_restoring_leaves_frozen_blocks_in_their_mode():
    vit = small_vit(proj_drop_rate=0.5).train()
    vit.blocks[0].eval()
    report = swap_attention(vit, "fibottention")
    vit.blocks[1].eval()
    report.restore()
    assert [block.attn.proj_drop.training for block in vit.blocks] == [False, False, True]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_trains_through_every_weight(options):
    vit = small_vit().train()
    swap_attention(vit, **options)
    vit(images()).square().sum().backward()
    without = [name for name, weight in vit.named_parameters() if weight.grad is None]
    assert without == []


@pytest.mark.parametrize("name", ["softmax", "fibottention", "castling"])
def test_class_can_be_timms_attn_layer(name):
    vit = small_vit(attn_layer=ATTENTIONS[name])
    place_attention(vit)
    assert [block.attn.layer_index for block in vit.blocks] == [0, 1, 2]
    assert vit.blocks[0].attn.grid == (1, 4, 4)
    assert vit(images()).shape == (2, 5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_trace_answers_and_learns_as_the_module(options):
    module = create_attention(options, 24, 3, layer_index=0, num_prefix_tokens=1, grid=(1, 8, 8)).eval()
    traced: Any = torch.jit.trace(module, torch.randn(1, 65, 24))
    x = torch.randn(3, 65, 24, requires_grad=True)
    answers = traced(x), module(x)
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), x)[0] for out in answers))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["fibottention", "castling", "afno"])
def test_an_exported_module_takes_batches_of_any_size(name, training):
    module = create_attention(name, 24, 3, layer_index=0, num_prefix_tokens=1, grid=(1, 8, 8))
    sizes = ({0: torch.export.Dim("batch")},)
    example = (torch.randn(3, 65, 24),)
    exported = torch.export.export(module.train(training), example, dynamic_shapes=sizes, strict=False)
    for batch in (1, 5):
        x = torch.randn(batch, 65, 24)
        torch.testing.assert_close(exported.module()(x), module(x))


@pytest.mark.parametrize("name", ["fibottention", "bigbird"])
def test_compiled_modules_take_pictures_of_any_size(name):
    """After a second size PyTorch hands over a symbol for the number of tokens, of which no set follows."""
    module = create_attention(name, 24, 3, layer_index=0, num_prefix_tokens=1).eval()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    for tokens in (17, 37, 65):
        x = torch.randn(2, tokens, 24)
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("options", [*({"name": name} for name in ATTENTIONS), OPTIONS[-1]], ids=str)
@pytest.mark.parametrize("grid", [(1, 4, 4), (1, 8, 8)])
def test_a_batch_of_nothing_gives_nothing(options, grid):
    """As PyTorch's and timm's own attention do; short sequences and long ones have their own backends."""
    module = create_attention(options, 24, 3, layer_index=0, num_prefix_tokens=1, grid=grid).train()
    nothing = torch.randn(0, 1 + grid[1] * grid[2], 24, requires_grad=True)
    out = module(nothing)
    out.sum().backward()
    assert out.shape == nothing.shape
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in module.parameters())
    assert all(buffer.isfinite().all() for buffer in module.buffers())
    with torch.inference_mode():
        assert module.eval()(nothing).shape == nothing.shape


def test_unplaced_module_says_what_to_do():
    with pytest.raises(AttentionError, match="place_attention"):
        Fibottention(24, num_heads=3)(torch.randn(1, 17, 24))


@pytest.mark.parametrize(("class_token", "heads"), [(True, 1), (False, 1), (False, 3)])
def test_encoders_without_class_token_and_with_one_head_work(class_token, heads):
    arguments = {} if class_token else {"class_token": False, "global_pool": "avg"}
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=2, num_heads=heads, **arguments
    )
    swap_attention(vit, "fibottention")
    assert vit(images()).isfinite().all()


@pytest.mark.parametrize(
    ("attention", "named"),
    [
        ("fibotention", "'fibottention'"),
        ({"name": "fibottention", "mask_mod": "drop"}, "'mask_mode'"),
        ({"name": "fibottention", "rule": "golden"}, "rule"),
        ({"name": "castling", "threshold": 0}, "threshold"),
        ({"rule": "paper"}, "name"),
        ({"name": "softmax", "rule": "paper"}, "no options"),
    ],
)
def test_unknown_name_or_option_names_the_nearest(attention, named):
    with pytest.raises(AttentionError, match=named):
        AttentionConfig.parse(attention)


def test_config_round_trip():
    config = AttentionConfig.parse({"name": "fibottention", "rule": "modified"})
    assert config.to_dict() == {"name": "fibottention", "rule": "modified", "mask_mode": "drop"}
    assert AttentionConfig.parse(config.to_dict()) == config


def test_misfits_are_refused_by_name():
    with pytest.raises(AttentionError, match="num_heads"):
        Fibottention(25, num_heads=3)
    with pytest.raises(AttentionError, match="attn_drop"):
        Fibottention(24, num_heads=3, attn_drop=0.1)
    module = create_attention("fibottention", 24, 3, layer_index=0, num_prefix_tokens=1, grid=(1, 4, 4))
    with pytest.raises(AttentionError, match="grid"):
        module(torch.randn(1, 18, 24))
    with pytest.raises(AttentionError, match="attn_mask"):
        module(torch.randn(1, 17, 24), attn_mask=torch.ones(17, 17))
    with pytest.raises(AttentionError, match="no timm attention"):
        swap_attention(torch.nn.Linear(3, 3), "softmax")


def test_attention_that_blocks_share_is_swapped_in_each():
    vit, batch = small_vit().eval(), images()
    vit.blocks[1].attn = shared = vit.blocks[0].attn
    vit.blocks[2] = vit.blocks[1]
    untouched = vit(batch)
    report = swap_attention(vit, "fibottention")
    assert [layer.path for layer in report.layers] == ["blocks.0.attn", "blocks.1.attn"]
    assert [type(block.attn) for block in vit.blocks] == [Fibottention] * 3
    assert [block.attn.qkv for block in vit.blocks] == [shared.qkv] * 3
    assert vit.blocks[0].attn.layer_index == 0
    report.restore()
    assert torch.equal(vit(batch), untouched)


@pytest.mark.parametrize("dynamic_img_size", [False, True])
@pytest.mark.parametrize("name", sorted(ATTENTIONS))
def test_patch_dropout_is_refused_where_the_order_of_patches_matters(name, dynamic_img_size):
    vit = small_vit(patch_drop_rate=0.5, dynamic_img_size=dynamic_img_size).train()
    if name in ("softmax", "efficient", "xcit", "vitality", "tost"):
        swap_attention(vit, name)
        assert vit(images()).isfinite().all()
        return
    with pytest.raises(AttentionError, match="patch_drop_rate"):
        swap_attention(vit, name)
    assert isinstance(vit.blocks[0].attn, timm.layers.attention.Attention)
    swap_attention(vit, "softmax")
    with pytest.raises(AttentionError, match="patch_drop_rate"):
        swap_attention(vit, name)


def test_width_of_heads_that_timm_was_given_is_kept():
    vit, batch = small_vit().eval(), images()
    for block in vit.blocks:
        block.attn = timm.layers.attention.Attention(48, num_heads=3, attn_head_dim=5).eval()
    expected = vit(batch)
    swap_attention(vit, "softmax")
    torch.testing.assert_close(vit(batch), expected, rtol=1e-5, atol=1e-6)
    assert vit.blocks[0].attn.core.head_dim == 5
    x = torch.randn(2, 17, 48)
    assert ATTENTIONS["castling"](48, 3, attn_head_dim=5, layer_index=0)(x).shape == x.shape


def test_heads_that_see_nothing_are_named_once():
    from fibo_robot.attention import cores

    cores._warn_of_empty_heads.cache_clear()
    with pytest.warns(UserWarning, match=r"8 patches: 9 of 12 heads \(4, 5, .* 12, .* return zeros"):
        module = create_attention("fibottention", 24, 12, layer_index=0, num_prefix_tokens=0, grid=(8, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = module.core(*torch.randn(3, 1, 12, 8, 2))
        create_attention("fibottention", 24, 12, layer_index=1, num_prefix_tokens=0, grid=(8, 1, 1))
        create_attention("fibottention", 36, 12, layer_index=0, num_prefix_tokens=1, grid=(1, 14, 14))
    silent = (out == 0).flatten(2).all(dim=-1)
    assert silent.sum() == 9
    with pytest.warns(UserWarning, match="see the prefix tokens alone"):
        create_attention("fibottention", 24, 12, layer_index=0, num_prefix_tokens=1)(torch.randn(1, 9, 24))
