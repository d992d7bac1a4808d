"""Our attentions inside Hugging Face transformers models, through their attention interface.

A transformers attention layer projects q, k and v itself and hands them to the function that its config names
(https://huggingface.co/docs/transformers/attention_interface). One function of ours is registered under
:data:`INTERFACE`; it calls the core that stands in the layer as its submodule `core`. So every layer has its
own core, a core's weights are in the model's state dict, and models with different attentions live side by
side. transformers is an optional dependency: it is imported only for models that come from it.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fibo_robot.attention.cores import AttentionCore, Grid
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.registry import AttentionConfig
from fibo_robot.attention.swapping.reports import LayerSwap, SwapReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INTERFACE = "fibo_robot"
TRUNKS = ("ViTModel", "Dinov2Model", "Dinov2WithRegistersModel", "VideoMAEModel", "VivitModel")
TAKES_ANY_SIZE = ("Dinov2Model", "Dinov2WithRegistersModel")  # they resample their position embeddings


def find_trunks(model: nn.Module) -> "list[PreTrainedModel]":
    """The models of :data:`TRUNKS` inside a module, itself included."""
    if "transformers" not in sys.modules:
        return []  # a model of transformers cannot exist without its import
    from transformers import PreTrainedModel

    return [m for m in model.modules() if isinstance(m, PreTrainedModel) and type(m).__name__ in TRUNKS]


def swap_in_trunks(
    model: nn.Module, trunks: "list[PreTrainedModel]", attention: AttentionConfig
) -> SwapReport:
    """Put a core behind every attention layer of the trunks, keeping all projections.

    Args:
        model: what holds the trunks.
        trunks: as :func:`find_trunks` gave them.
        attention: which attention.

    Raises:
        AttentionError: if the model drops out attention weights in training.
    """
    for trunk in trunks:
        dropout = trunk.config.attention_probs_dropout_prob
        if dropout:
            raise AttentionError(
                f"attention_probs_dropout_prob must be 0 for {attention.name}, not {dropout}: set it so in "
                "the model's config, and use hidden_dropout_prob instead."
            )
    _register()
    path_of = {module: path for path, module in model.named_modules()}
    layers, undo_steps = [], []
    for trunk in trunks:
        undo_steps.append(_give_own_config(model, trunk))
        for layer in _attention_layers(trunk):
            before, old_weights = _describe(layer), list(layer.state_dict())
            undo_steps.append(_set_core(layer, _new_core(trunk, layer, attention)))
            layers.append((layer, before, old_weights, attention.name))
        place_in_trunk(trunk)
        trunk.set_attn_implementation(INTERFACE)

    def undo() -> None:
        for step in reversed(undo_steps):
            step()

    report = [
        LayerSwap.between(path_of[layer], before, _describe(layer, name), old, list(layer.state_dict()))
        for layer, before, old, name in layers
    ]
    return SwapReport(report, undo)


def place_in_trunk(trunk: "PreTrainedModel", image_size: tuple[int, int] | None = None) -> None:
    """Tell every core in a trunk its layer, prefix tokens and grid.

    Args:
        trunk: one of :data:`TRUNKS`.
        image_size: (height, width) in pixels; when None, the model's own where it takes no other, else the
            grid stays unknown.
    """
    config = trunk.config
    num_prefix_tokens = 0 if type(trunk).__name__ == "VideoMAEModel" else 1
    num_prefix_tokens += getattr(config, "num_register_tokens", 0)
    grid: Grid | None = None
    if image_size is not None or type(trunk).__name__ not in TAKES_ANY_SIZE:
        height, width = _pair(config.image_size if image_size is None else image_size)
        steps_per_token, patch_height, patch_width = _patch(config)
        steps = getattr(config, "num_frames", 1) // steps_per_token
        grid = (steps, height // patch_height, width // patch_width)
    for layer_index, layer in enumerate(_attention_layers(trunk)):
        core = getattr(layer, "core", None)
        if isinstance(core, AttentionCore):
            core.place(layer_index, num_prefix_tokens, grid)


def example_input(trunk: "PreTrainedModel") -> Tensor:
    """Two images, or clips, of random pixels that a trunk takes."""
    config = trunk.config
    frames = (config.num_frames,) if hasattr(config, "num_frames") else ()
    shape = (2, *frames, config.num_channels, *_pair(config.image_size))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(trunk.device, trunk.dtype)


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in place of its own attention.

    Args:
        module: the attention layer, with its core.
        query, key, value: `(B, heads, N, head_dim)`.
        attention_mask: must be None.
        scaling: factor on q·k.
        dropout: must be 0.

    Returns:
        `(B, N, heads, head_dim)`, and None in place of the attention weights.

    Raises:
        AttentionError: naming the argument that is refused.
    """
    if attention_mask is not None:
        raise AttentionError(f"{_describe(module)} takes no attention_mask.")
    if dropout:
        raise AttentionError(f"dropout of attention weights must be 0, not {dropout}.")
    return module.core(query, key, value, scale=scaling).transpose(1, 2).contiguous(), None


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(INTERFACE, attention_forward)
    # Without a mask of its own the interface gives None where no token is padding; "eager" would give zeros.
    AttentionMaskInterface.register(INTERFACE, sdpa_mask)


def _attention_layers(trunk: "PreTrainedModel") -> Iterator[Any]:
    """The layers that call the attention interface, in the order of the network."""
    for module in trunk.modules():
        if hasattr(module, "scaling") and hasattr(module, "num_attention_heads"):
            yield module


def _new_core(trunk: "PreTrainedModel", layer: Any, attention: AttentionConfig) -> AttentionCore:
    head_dim = trunk.config.hidden_size // layer.num_attention_heads
    weight = next(layer.parameters())
    core = attention.module_type.core_type(layer.num_attention_heads, head_dim, attention.options)
    return core.to(weight.device, weight.dtype).train(layer.training)


def _set_core(layer: nn.Module, core: AttentionCore) -> Callable[[], None]:
    """Put a core into a layer; returns what puts the former one, or none, back."""
    former = getattr(layer, "core", None)
    layer.core = core

    def undo() -> None:
        if former is None:
            del layer.core
        else:
            layer.core = former.train(layer.training)

    return undo


def _give_own_config(model: nn.Module, trunk: "PreTrainedModel") -> Callable[[], None]:
    """Let the trunk name its attention without changing another model built from the same config object."""
    shared = trunk.config
    holders = [module for module in model.modules() if getattr(module, "config", None) is shared]
    own = copy.deepcopy(shared)

    def give(config: Any) -> None:
        for module in holders:
            module.config = config

    give(own)
    return lambda: give(shared)


def _describe(layer: Any, attention: str | None = None) -> str:
    core = getattr(layer, "core", None)
    known = layer.config._attn_implementation if core is None else type(core).__name__
    return f"{type(layer).__name__} ({attention or known})"


def _patch(config: Any) -> tuple[int, int, int]:
    """What one token covers: frames, rows and columns of pixels."""
    tubelet = getattr(config, "tubelet_size", 1)
    if isinstance(tubelet, int):
        return (tubelet, *_pair(config.patch_size))
    frames, height, width = tubelet  # ViViT's, in which the patch is named
    return frames, height, width


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
