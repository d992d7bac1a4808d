"""Change the attention inside a model that already has weights, and switch Castling's branch off."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from timm.layers import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fibo_robot.attention.cores import AngularCore, Grid
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.huggingface import (
    TRUNKS,
    example_input,
    find_trunks,
    place_in_trunk,
    swap_in_trunks,
)
from fibo_robot.attention.modules import AttentionModule
from fibo_robot.attention.registry import AttentionConfig
from fibo_robot.attention.reports import CastleReport, LayerSwap, SwapReport

NO_TRUNK = (
    "{} has no timm attention layer, and none of transformers' that can be swapped: give a timm "
    f"VisionTransformer, or one of transformers' {', '.join(TRUNKS)}."
)


def swap_attention(model: nn.Module, name: str, **options: Any) -> SwapReport:
    """Replace the attention of every layer of a ViT, keeping its projections.

    On timm's models the attention modules are replaced. On transformers' ViT, DINOv2 and VideoMAE models the
    layers stay and hand q, k and v to a core of ours. A model that refuses the attention is left as it was.

    Args:
        model: a timm VisionTransformer, one of transformers' :data:`huggingface.TRUNKS`, or a module that
            holds one of them.
        name: a registered attention, as `fibottention`.
        **options: that attention's options, as `rule="modified"`.

    Returns:
        A report of every layer; `report.restore()` undoes the swap.

    Raises:
        AttentionError: for an unknown name or option, or a model without an attention that can be swapped.
    """
    config = AttentionConfig.parse({"name": name, **options})
    trunks = find_trunks(model)
    originals = {
        path: module
        for path, module in model.named_modules()
        if path and (type(module) is TimmAttention or isinstance(module, AttentionModule))
    }
    if trunks and originals:
        raise AttentionError(
            f"{type(model).__name__} holds models of timm and of transformers: swap them one at a time."
        )
    if trunks:
        return swap_in_trunks(model, trunks, config)
    if not originals:
        raise AttentionError(NO_TRUNK.format(type(model).__name__))
    undo = partial(_put_back, model, originals)
    try:
        for path, old in originals.items():
            model.set_submodule(path, config.module_type.taking_over(old, config.options))
        if any(isinstance(m, AttentionModule) and m.layer_index is None for m in model.modules()):
            place_attention(model)
    except AttentionError:
        undo()
        raise
    layers = []
    for path, old in originals.items():
        new = model.get_submodule(path)
        names = type(old).__name__, type(new).__name__
        layers.append(LayerSwap.between(path, *names, list(old.state_dict()), list(new.state_dict())))
    return SwapReport(layers, undo)


def place_attention(model: nn.Module, image_size: tuple[int, int] | None = None) -> None:
    """Tell every attention inside ViTs its layer, prefix tokens and grid.

    `swap_attention` does it already. It is needed again for another image size, and for the first time where
    timm built the attention, or where a model that takes any image size meets an attention with a grid.

    Args:
        model: as in :func:`swap_attention`.
        image_size: (height, width) of its images in pixels; when None, the model's own where it takes no
            other, else the grid stays unknown.

    Raises:
        AttentionError: if the model holds no ViT.
    """
    timm_trunks = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    transformers_trunks = find_trunks(model)
    if not timm_trunks and not transformers_trunks:
        raise AttentionError(NO_TRUNK.format(type(model).__name__))
    for trunk in transformers_trunks:
        place_in_trunk(trunk, image_size)
    for trunk in timm_trunks:
        grid: Grid | None = None
        if image_size is not None:
            grid = (1, *trunk.patch_embed.dynamic_feat_size(image_size))
        elif not trunk.dynamic_img_size:  # a model that takes any image size has no one grid
            grid = (1, *trunk.patch_embed.grid_size)
        for layer_index, block in enumerate(trunk.blocks):
            for module in block.modules():
                if isinstance(module, AttentionModule):
                    module.place(layer_index, trunk.num_prefix_tokens, grid)


def castle(model: nn.Module, example: Tensor | None = None) -> CastleReport:
    """Switch Castling's training branch off for good, and report what that changes on an example input.

    The state dict does not change. After the schedule's end (branch scale 0) the gap is exactly 0.

    Args:
        model: any model with CastlingAttention layers; its training mode is left as it was.
        example: one batch of its input; two images (or clips) of random pixels when None and the model holds
            a ViT that `swap_attention` knows.

    Raises:
        AttentionError: if the model has no CastlingAttention, or the example is missing and has no default.
    """
    cores = dict(angular_cores(model))
    if not cores:
        raise AttentionError(f"{type(model).__name__} has no CastlingAttention to castle.")
    if example is None:
        example = _random_images(model)
    scale = max(float(core.branch_scale) for core in cores.values())
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for core in cores.values():
            core.train()  # the branch runs in training mode; nothing else in the core depends on it
        with_branch = _output_tensor(model(example))
        passed = tuple(float(core.mass_passed) for core in cores.values())
        for core in cores.values():
            core.eval()
            core.set_branch_scale(0.0)
        castled = _output_tensor(model(example))
    model.train(was_training)
    difference = with_branch - castled
    return CastleReport(
        layers=tuple(cores),
        branch_scale=scale,
        mass_passed=passed,
        output_gap=float(difference.abs().max()),
        relative_gap=float(difference.norm() / castled.norm()),
    )


def angular_cores(model: nn.Module) -> Iterator[tuple[str, AngularCore]]:
    """Every Castling core of a model with its path."""
    for path, module in model.named_modules():
        if isinstance(module, AngularCore):
            yield path, module


def _random_images(model: nn.Module) -> Tensor:
    for trunk in find_trunks(model):
        return example_input(trunk)
    for module in model.modules():
        if isinstance(module, VisionTransformer):
            weight = module.patch_embed.proj.weight
            shape = (2, weight.shape[1], *module.patch_embed.img_size)
            return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(weight)
    raise AttentionError(f"castle needs an example input for {type(model).__name__}: pass example=batch.")


def _output_tensor(output: Any) -> Tensor:
    """The tensor of a model's output that its branch could change: tokens where it names them."""
    for name in ("tokens", "logits", "last_hidden_state"):
        if hasattr(output, name):
            return getattr(output, name)
    return output


def _put_back(model: nn.Module, originals: dict[str, nn.Module]) -> None:
    for path, module in originals.items():
        model.set_submodule(path, module.train(model.training))
