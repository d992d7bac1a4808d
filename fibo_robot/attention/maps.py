"""Where a model looks: how much its attention gives to each token, and that over a picture.

Weights are read off the attention itself, not recomputed beside it. A core is linear in its values: where
these are unit vectors its outputs are its weights (:func:`attention_weights`), and the gradient of the sum of
its outputs with respect to its values is the weights' column sums (:func:`received_attention`), for which no
matrix is ever made. Linear-angular attention is normalised after its linear part, so there the linear part is
asked. Of the few cores that are not linear in their values (TOST, AFNO), the gradient is that at the values
they had.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fibo_robot.attention.cores import AttentionCore
from fibo_robot.errors import FiboError

COLOURS = "inferno"  # matplotlib's name
STRENGTH = 0.6  # how much of the colour covers the picture where attention is strongest
STRONGEST = 0.02  # share of patches that are shown as equally strong


class OverlayError(FiboError):
    """The asked layer, head or camera does not exist, or what shows it cannot be written."""


def attention_weights(core: AttentionCore, q: Tensor, k: Tensor) -> Tensor:
    """The weights `(B, heads, N, N)` that a core gives keys (columns) for queries (rows).

    Args:
        core: any attention core of ours.
        q, k: `(B, heads, N, head_dim)`.
    """
    num_tokens, width = q.shape[-2:]
    columns = []
    for part in range(math.ceil(num_tokens / width)):
        value = torch.zeros_like(k)
        keys = torch.arange(part * width, min((part + 1) * width, num_tokens), device=k.device)
        value[..., keys, keys - part * width] = 1
        out = core.weigh(q, k, value)
        columns.append(out[..., : len(keys)])
    return torch.cat(columns, dim=-1)


def received_attention(
    core: AttentionCore, q: Tensor, k: Tensor, v: Tensor, *, num_prefix_tokens: int = 0
) -> Tensor:
    """What each token gives to all patches together, `(B, heads, N)`: column sums of the attention matrix.

    Args:
        core: any attention core of ours.
        q, k, v: `(B, heads, N, head_dim)`.
        num_prefix_tokens: the first queries, which are left out of the sum.
    """
    with torch.enable_grad():
        value = v.detach().requires_grad_()
        out = core.weigh(q, k, value)
        (gradient,) = torch.autograd.grad(out[:, :, num_prefix_tokens:].sum(), value)
    return gradient.mean(-1)


@contextmanager
def watch_received(core: AttentionCore, num_prefix_tokens: int) -> Iterator[list[Tensor]]:
    """Collect what patches receive, `(B, N)` averaged over heads, in every pass through a core.

    Args:
        core: any attention core of ours, inside a model that runs without `torch.inference_mode`.
        num_prefix_tokens: the first tokens, which are left out as queries and as keys.
    """
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        received = received_attention(core, *inputs, num_prefix_tokens=num_prefix_tokens)
        seen.append(received[..., num_prefix_tokens:].mean(1))

    handle = core.register_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


def heat_map(received: Tensor) -> np.ndarray:
    """What patches receive, of any shape, scaled to [0, 1] over all of them.

    The strongest patches are all 1: large ViTs gather much of their attention in single patches that mean
    nothing (arXiv 2309.16588), beside which the rest would not be seen.
    """
    received = received.detach().float().cpu()
    low, high = received.min(), received.flatten().quantile(1 - STRONGEST)
    return ((received - low) / (high - low).clamp(min=1e-12)).clamp(max=1).numpy()


def blend(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a map over a picture, the more opaque the stronger it is.

    Args:
        picture: uint8 `(H, W, 3)`.
        heat: `(H', W')` in [0, 1], enlarged to the picture's size.

    Returns:
        uint8 `(H, W, 3)`.
    """
    import matplotlib

    size = picture.shape[:2]
    large = F.interpolate(torch.from_numpy(heat).float()[None, None], size, mode="bilinear")[0, 0].numpy()
    cover = STRENGTH * large[..., None]
    mixed = (1 - cover) * (picture / 255) + cover * matplotlib.colormaps[COLOURS](large)[..., :3]
    return (mixed.clip(0, 1) * 255).round().astype(np.uint8)
