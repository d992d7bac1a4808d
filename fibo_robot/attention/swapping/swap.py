"""Change the attention inside a model that already has weights, and switch Castling's branch off."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from timm.layers.attention import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fibo_robot.attention.cores import AngularCore, Grid
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.modules import AttentionModule
from fibo_robot.attention.registry import AttentionConfig
from fibo_robot.attention.swapping.huggingface import (
    TRUNKS,
    example_input,
    find_trunks,
    place_in_trunk,
    swap_in_trunks,
)
from fibo_robot.attention.swapping.reports import CastleReport, LayerSwap, SwapReport

NO_TRUNK = (
    "{} has no timm attention layer, and none of transformers' that can be swapped: give a timm "
    f"VisionTransformer, or one of transformers' {', '.join(TRUNKS)}."
)


@runtime_checkable
class PlacesAttention(Protocol):
    """A model around a ViT that lays its tokens out in a way of its own, as video encoders do."""

    def place_attention(self, image_size: tuple[int, int] | None = None) -> None:
        """Place every attention inside, or raise an :class:`AttentionError` if `image_size` does not fit."""
        ...

    def example_input(self) -> Tensor:
        """A small batch of random input."""
        ...


def swap_attention(model: nn.Module, name: str | AttentionConfig, **options: Any) -> SwapReport:
    """Replace the attention of every layer of a ViT, keeping its projections.

    On timm's models the attention modules are replaced. On transformers' ViT, DINOv2, VideoMAE and ViViT
    models the layers stay and hand q, k and v to a core of ours. A model that refuses the attention is left
    as it was.

    Args:
        model: a timm VisionTransformer, one of transformers' :data:`huggingface.TRUNKS`, or a module that
            holds one of them.
        name: a registered attention, as `fibottention`, or one with its options.
        **options: the named attention's options, as `rule="modified"`.

    Returns:
        A report of every layer; `report.restore()` undoes the swap.

    Raises:
        AttentionError: for an unknown name or option, or a model without an attention that can be swapped.
    """
    if isinstance(name, AttentionConfig) and options:
        raise AttentionError("Give options with the attention's name, or a config that holds them.")
    config = name if isinstance(name, AttentionConfig) else AttentionConfig.parse({"name": name, **options})
    trunks = find_trunks(model)
    originals: dict[str, TimmAttention | AttentionModule] = {
        f"{path}.{attribute}".lstrip("."): module
        for path, parent in model.named_modules()
        for attribute, module in parent.named_children()  # each place of a module that several share
        if _is_timms(module) or isinstance(module, AttentionModule)
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
        _check_patch_drop(model)
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
        AttentionError: if the model holds no ViT, or one that drops patches before an attention that goes by
            their order.
    """
    _check_patch_drop(model)
    placed: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, PlacesAttention):
            module.place_attention(image_size)
            placed.update(module.modules())
    trunks = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    transformers_trunks = find_trunks(model)
    if not trunks and not transformers_trunks:
        raise AttentionError(NO_TRUNK.format(type(model).__name__))
    for trunk in transformers_trunks:
        place_in_trunk(trunk, image_size)
    for trunk in trunks:
        if trunk not in placed:
            _place_in_timm(trunk, image_size)


def _place_in_timm(trunk: VisionTransformer, image_size: tuple[int, int] | None) -> None:
    grid: Grid | None = None
    if image_size is not None:
        height, width = trunk.patch_embed.dynamic_feat_size(image_size)
        grid = (1, height, width)
    elif not trunk.dynamic_img_size:  # a model that takes any image size has no one grid
        height, width = trunk.patch_embed.grid_size
        grid = (1, height, width)
    for layer_index, block in enumerate(trunk.blocks):
        for module in block.modules():
            if isinstance(module, AttentionModule):
                module.place(layer_index, trunk.num_prefix_tokens, grid)


def castle(model: nn.Module, example: Tensor | None = None) -> CastleReport:
    """Switch Castling's training branch off for good, and report what that changes on an example input.

    No weight changes; the branch's scale becomes 0, in the state dict too. After the schedule's end it is 0
    already, and the gap is exactly 0.

    Args:
        model: any model with CastlingAttention layers; every module's training mode is left as it was. If it
            fails on the example, it keeps its branch.
        example: one batch of its input; two images (or clips) of random pixels when None and the model holds
            a ViT that `swap_attention` knows, or an encoder of ours.

    Raises:
        AttentionError: if the model has no CastlingAttention, or the example is missing and has no default.
    """
    cores = dict(angular_cores(model))
    if not cores:
        raise AttentionError(f"{type(model).__name__} has no CastlingAttention to castle.")
    if example is None:
        example = _random_images(model)
    scales = {core: float(core.branch_scale) for core in cores.values()}
    with _modes_kept(model), torch.no_grad():
        model.eval()
        for core in cores.values():
            core.train()  # the branch runs in training mode; nothing else in the core depends on it
        with_branch = _output_tensor(model(example))
        passed = tuple(float(core.mass_passed) for core in cores.values())
        try:
            for core in cores.values():
                core.set_branch_scale(0.0)
            castled = _output_tensor(model.eval()(example))
        except BaseException:
            for core, scale in scales.items():
                core.set_branch_scale(scale)
            raise
    difference = with_branch - castled
    return CastleReport(
        layers=tuple(cores),
        branch_scale=max(scales.values()),
        mass_passed=passed,
        output_gap=float(difference.abs().max()),
        relative_gap=float(difference.norm() / castled.norm()),
    )


def angular_cores(model: nn.Module) -> Iterator[tuple[str, AngularCore]]:
    """Every Castling core of a model with its path."""
    for path, module in model.named_modules():
        if isinstance(module, AngularCore):
            yield path, module


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Puts every module's training mode back, also that of parts that are kept in evaluation mode."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _random_images(model: nn.Module) -> Tensor:
    for trunk in find_trunks(model):
        return example_input(trunk)
    for module in model.modules():
        if isinstance(module, PlacesAttention):
            return module.example_input()
        if isinstance(module, VisionTransformer):
            weight = next(module.patch_embed.parameters())
            height, width = module.patch_embed.img_size
            shape = (2, weight.shape[1], height, width)
            return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(weight)
    raise AttentionError(f"castle needs an example input for {type(model).__name__}: pass example=batch.")


def _output_tensor(output: Any) -> Tensor:
    """The tensor of a model's output that its branch could change: tokens where it names them."""
    for name in ("tokens", "logits", "last_hidden_state"):
        if hasattr(output, name):
            return getattr(output, name)
    return output


def _check_patch_drop(model: nn.Module) -> None:
    """timm drops patches in training by handing on the others in random order, without saying which."""
    for trunk in model.modules():
        if not isinstance(trunk, VisionTransformer) or not getattr(trunk.patch_drop, "prob", 0):
            continue
        for module in trunk.modules():
            if isinstance(module, AttentionModule) and module.core.order_matters:
                raise AttentionError(
                    f"patch_drop_rate must be 0 for {type(module).__name__}, which goes by the order of "
                    "patches: timm shuffles those that it keeps."
                )


def _is_timms(module: nn.Module) -> TypeGuard[TimmAttention]:
    return type(module) is TimmAttention  # a class derived from it may compute something else


def _put_back(model: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    for path, module in originals.items():
        model.set_submodule(path, module.train(model.get_submodule(path).training))
