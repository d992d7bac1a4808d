"""Pictures of Fibottention: each head's mask, and how far information travels over the layers.

Figures are made without pyplot, so they neither open a window nor stay in memory.
"""

from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.sparse.reference import dense_mask
from fibo_robot.attention.wythoff import OffsetRule, count_pairs, head_offsets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 6  # heads side by side


def mask_figure(
    num_tokens: int, num_heads: int, rule: OffsetRule = "paper", *, grid: tuple[int, int] | None = None
) -> "Figure":
    """Draw every head's mask over the patch tokens; dark pairs are computed.

    Args:
        num_tokens: patch tokens, prefix tokens not counted.
        num_heads: heads.
        rule: which offsets; see `wythoff.head_offsets`.
        grid: (height, width) of the patches; when given, a second picture per head shows the image patches
            that the middle patch looks at (itself marked).

    Raises:
        AttentionError: for an unknown rule, or a grid that does not hold `num_tokens` patches.
    """
    from matplotlib.figure import Figure

    if grid is not None and grid[0] * grid[1] != num_tokens:
        raise AttentionError(f"grid {grid} holds {grid[0] * grid[1]} patches, not num_tokens ({num_tokens}).")
    offsets = head_offsets(num_tokens, num_heads, rule)
    masks = dense_mask(offsets, num_tokens, num_prefix_tokens=0)
    columns = min(COLUMNS, num_heads)
    bands = -(-num_heads // columns)
    rows_per_band = 1 if grid is None else 2
    figure = Figure(figsize=(1.6 * columns, 1.85 * bands * rows_per_band), layout="constrained")
    axes = figure.subplots(bands * rows_per_band, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for head in range(num_heads):
        band, column = divmod(head, columns)
        ax = axes[band * rows_per_band, column]
        ax.set_axis_on()
        ax.imshow(masks[head].numpy(), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
        share = 100 * count_pairs(offsets[head], num_tokens) / num_tokens**2
        ax.set_title(f"head {head + 1}: {share:.1f} %", fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
        if grid is not None:
            middle = (grid[0] // 2) * grid[1] + grid[1] // 2
            seen = masks[head, middle].float()
            seen[middle] = 0.5
            ax = axes[band * rows_per_band + 1, column]
            ax.set_axis_on()
            ax.imshow(seen.reshape(grid).numpy(), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
    return figure


def receptive_field(num_tokens: int, num_heads: int, num_layers: int, rule: OffsetRule = "paper") -> Tensor:
    """Share of all patches that can have reached a patch after each layer, averaged over patches.

    Information moves along any head's diagonals and the residual connection. The class token is left out:
    with it, every patch reaches every other in two layers.

    Returns:
        `(num_layers,)` of values in [0, 1].
    """
    step = dense_mask(head_offsets(num_tokens, num_heads, rule), num_tokens, 0).any(dim=0).float()
    step.fill_diagonal_(1)
    reached = torch.eye(num_tokens)
    shares = []
    for _ in range(num_layers):
        reached = ((reached @ step) > 0).float()
        shares.append(reached.mean())
    return torch.stack(shares)


def receptive_field_figure(num_tokens: int, num_heads: int, num_layers: int) -> "Figure":
    """Draw :func:`receptive_field` over the layers, one line per offset rule."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5, 3), layout="constrained")
    ax = figure.add_subplot()
    layers = range(1, num_layers + 1)
    for rule in get_args(OffsetRule):
        shares = receptive_field(num_tokens, num_heads, num_layers, rule)
        ax.plot(layers, 100 * shares.numpy(), marker="o", markersize=3, label=rule)
    ax.set_xlabel("layers")
    ax.set_ylabel("patches reached (%)")
    ax.set_title("Without the class token", fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(0, 105)
    ax.legend()
    return figure
