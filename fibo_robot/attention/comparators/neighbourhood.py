"""Neighbourhood attention, a control: each patch sees its nearest patches, as many as under Fibottention.

An offset of the flattened sequence joins the end of one row of patches to the beginning of the next; a
neighbourhood does not. It is computed through a dense mask: what it costs says nothing, what it reaches does.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.backends.sdpa import Mask, masked_attention
from fibo_robot.attention.compiling import constant_result
from fibo_robot.attention.cores import AttentionCore, Grid
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.modules import AttentionModule
from fibo_robot.attention.sparse.controls import closest_count
from fibo_robot.attention.wythoff import count_pairs, layer_offsets


@dataclass(frozen=True)
class NeighbourhoodOptions:
    """The neighbourhood control has none: Fibottention's `paper` rule says how many pairs a head has."""


class NeighbourhoodCore(AttentionCore):
    """Softmax over the nearest patches of the grid, the patch itself left out; prefix tokens are global.

    A head's patches meet at displacements (dt, dy, dx) of the grid, nearest first, as many of them as come
    closest to the pairs that the same head of the same layer has under Fibottention's `paper` rule. Which of
    several equally far displacements come first is drawn for each head, seeded by the layer. Needs the grid.
    """

    options_type = NeighbourhoodOptions

    def mask(self, num_tokens: int) -> Tensor:
        """Which pairs each head computes: bool `(heads, N, N)`, prefix tokens included."""
        layer_index, num_prefix_tokens = self._placement()
        self._num_patches(num_tokens)
        if self.grid is None:
            raise AttentionError("neighbourhood needs the token grid: place the module with grid=(T, H, W).")
        return _constant_mask(self.grid, self.num_heads, layer_index, num_prefix_tokens)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        pairs = self.mask(q.shape[-2]).to(q.device)
        return masked_attention(q, k, v, Mask(pairs, ~pairs.any(dim=-1, keepdim=True)), scale=scale)


class Neighbourhood(AttentionModule):
    """Fibottention's control on the patch grid; options: `NeighbourhoodOptions`."""

    name = "neighbourhood"
    core_type = NeighbourhoodCore


def head_displacements(grid: Grid, num_heads: int, layer: int) -> list[list[tuple[int, ...]]]:
    """The displacements (dt, dy, dx) of every head, one of each pair ±d, nearest first."""
    num_patches = prod(grid)
    generator = random.Random(layer)  # Python's global generator is left alone
    reaches = (range(1 - size, size) for size in grid)
    half = [displacement for displacement in product(*reaches) if displacement > (0, 0, 0)]
    heads = []
    for offsets in layer_offsets(num_patches, num_heads, layer, "paper"):
        generator.shuffle(half)
        nearest = sorted(half, key=lambda d: sum(step * step for step in d))  # stable: ties stay as drawn
        pairs = [2 * prod(size - abs(step) for size, step in zip(grid, d)) for d in nearest]
        heads.append(nearest[: closest_count(pairs, count_pairs(offsets, num_patches))])
    return heads


@constant_result
def _constant_mask(grid: Grid, num_heads: int, layer: int, num_prefix_tokens: int) -> Tensor:
    """As :func:`_build_mask`, a constant of the compiled graph; Python's random module is not traced."""
    return torch.tensor(_build_mask(grid, num_heads, layer, num_prefix_tokens))


# What is kept is no tensor: one that was made while a model is exported is none of numbers, and all later
# calls would get it.
@lru_cache(maxsize=64)
def _build_mask(grid: Grid, num_heads: int, layer: int, num_prefix_tokens: int) -> np.ndarray:
    places = np.array(list(product(*(range(size) for size in grid))))
    displacements = places[:, None] - places[None, :]
    tokens = len(places) + num_prefix_tokens
    mask = np.ones((num_heads, tokens, tokens), dtype=bool)
    patches = mask[:, num_prefix_tokens:, num_prefix_tokens:]
    for head, chosen in enumerate(head_displacements(grid, num_heads, layer)):
        patches[head] = False
        for step in np.array(chosen):
            patches[head] |= (displacements == step).all(-1) | (displacements == -step).all(-1)
    return mask
