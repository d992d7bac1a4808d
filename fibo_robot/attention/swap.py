"""Change the attention inside a model that already has weights, and switch Castling's branch off."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fibo_robot.attention.cores import AngularCore, Grid
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.modules import AttentionModule
from fibo_robot.attention.registry import AttentionConfig


@dataclass(frozen=True)
class LayerSwap:
    """What happened to one attention layer.

    Attributes:
        path: where it stands in the model, as `blocks.3.attn`.
        before, after: class names.
        kept: names of the weights that both have; they are the same tensors.
        new: names of the weights that only the new attention has; freshly initialised.
        dropped: names of the weights that only the old attention had.
    """

    path: str
    before: str
    after: str
    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass
class SwapReport:
    """The layers that `swap_attention` changed; `restore()` puts the old attention back."""

    layers: list[LayerSwap]
    _model: nn.Module = field(repr=False)
    _originals: dict[str, nn.Module] = field(repr=False)

    def restore(self) -> None:
        """Put the former attention modules back; weights that both share keep their present values."""
        _put_back(self._model, self._originals)

    def __str__(self) -> str:
        lines = [
            f"{layer.path}: {layer.before} -> {layer.after}, kept {len(layer.kept)} weights"
            + (f", new {', '.join(layer.new)}" if layer.new else "")
            + (f", dropped {', '.join(layer.dropped)}" if layer.dropped else "")
            for layer in self.layers
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class CastleReport:
    """What castling changed.

    Attributes:
        layers: paths of the attention layers whose branch is now off.
        branch_scale: the largest scale that a branch had before.
        mass_passed: per layer, the share of softmax mass that its branch passed on the example.
        output_gap: largest absolute difference that the branch made to the model's output on the example.
        relative_gap: norm of that difference over the norm of the castled output.
    """

    layers: tuple[str, ...]
    branch_scale: float
    mass_passed: tuple[float, ...]
    output_gap: float
    relative_gap: float


def swap_attention(model: nn.Module, name: str, **options: Any) -> SwapReport:
    """Replace every attention layer of a timm ViT, keeping its projections.

    A model that cannot take the attention is left as it was.

    Args:
        model: a timm VisionTransformer, or a module that holds one.
        name: a registered attention, as `fibottention`.
        **options: that attention's options, as `rule="modified"`.

    Returns:
        A report of every layer; `report.restore()` undoes the swap.

    Raises:
        AttentionError: for an unknown name or option, or a model without a timm attention layer.
    """
    config = AttentionConfig.parse({"name": name, **options})
    originals = {
        path: module
        for path, module in model.named_modules()
        if path and (type(module) is TimmAttention or isinstance(module, AttentionModule))
    }
    if not originals:
        raise AttentionError(
            f"{type(model).__name__} has no timm attention layer to swap: give a timm VisionTransformer."
        )
    try:
        for path, old in originals.items():
            model.set_submodule(path, config.module_type.taking_over(old, config.options))
        if any(isinstance(m, AttentionModule) and m.layer_index is None for m in model.modules()):
            place_attention(model)
    except AttentionError:
        _put_back(model, originals)
        raise
    layers = [_compare(path, old, model.get_submodule(path)) for path, old in originals.items()]
    return SwapReport(layers, model, originals)


def place_attention(model: nn.Module) -> None:
    """Tell every attention module inside timm ViTs its layer, prefix tokens and grid.

    Raises:
        AttentionError: if no timm VisionTransformer is found.
    """
    trunks = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    if not trunks:
        raise AttentionError(f"{type(model).__name__} holds no timm VisionTransformer.")
    for trunk in trunks:
        # A model that takes any image size has no one grid.
        grid: Grid | None = None if trunk.dynamic_img_size else (1, *trunk.patch_embed.grid_size)
        for layer_index, block in enumerate(trunk.blocks):
            for module in block.modules():
                if isinstance(module, AttentionModule):
                    module.place(layer_index, trunk.num_prefix_tokens, grid)


def castle(model: nn.Module, example: Tensor | None = None) -> CastleReport:
    """Switch Castling's training branch off for good, and report what that changes on an example input.

    The state dict does not change. After the schedule's end (branch scale 0) the gap is exactly 0.

    Args:
        model: any model with CastlingAttention layers; its training mode is left as it was.
        example: one batch of its input; two images of random pixels when None and the model holds a timm ViT.

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


def _compare(path: str, old: nn.Module, new: nn.Module) -> LayerSwap:
    before, after = list(old.state_dict()), list(new.state_dict())
    return LayerSwap(
        path=path,
        before=type(old).__name__,
        after=type(new).__name__,
        kept=tuple(key for key in after if key in before),
        new=tuple(key for key in after if key not in before),
        dropped=tuple(key for key in before if key not in after),
    )
