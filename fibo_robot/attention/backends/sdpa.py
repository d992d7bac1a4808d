"""Diagonal attention through a dense mask and PyTorch's own kernels: works on any device and dtype.

It computes all N² pairs, so it is the right choice for short sequences only. The mask is always handed to
the kernel, fused or not.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.sparse.reference import dense_mask

MASK_BYTES = 128 * 2**20  # that are kept per device: one mask of 12 heads and 3137 tokens is 113 MiB

Offsets = tuple[tuple[int, ...], ...]


def sdpa_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Offsets,
    *,
    num_prefix_tokens: int,
    mask_mode: str,
    scale: float,
) -> Tensor:
    """Diagonal attention on `(B, heads, N, head_dim)`; arguments as in `diagonal_attention`."""
    mask = _mask(offsets, num_prefix_tokens, q)
    if mask_mode == "zero_logit":
        return ((q @ k.transpose(-2, -1)) * scale).masked_fill(~mask.pairs, 0).softmax(dim=-1) @ v
    return masked_attention(q, k, v, mask, scale=scale)


class Mask(NamedTuple):
    """`pairs (heads, N, N)`, and which rows of it are empty `(heads, N, 1)`; None where none can be."""

    pairs: Tensor
    rows_without_key: Tensor | None


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float | None) -> Tensor:
    """Softmax over a mask's pairs, `(B, heads, N, head_dim)`; a query without a key gives zeros."""
    pairs, empty = mask
    if empty is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=pairs, scale=scale)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=pairs | empty, scale=scale)
    return out.masked_fill(empty, 0)


class _MaskCache:
    """The masks used last, within :data:`MASK_BYTES` per device; larger ones are made anew every time."""

    def __init__(self) -> None:
        self._masks: OrderedDict[tuple[Offsets, int, int, torch.device], Mask] = OrderedDict()
        self._lock = Lock()

    def get(self, offsets: Offsets, num_tokens: int, num_prefix_tokens: int, device: torch.device) -> Mask:
        key = (offsets, num_tokens, num_prefix_tokens, device)
        with self._lock:
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        # A mask first made under inference_mode could not be used for training later.
        with torch.inference_mode(False):
            mask = _build_mask(offsets, num_tokens, num_prefix_tokens, device)
            if mask.rows_without_key is not None and not mask.rows_without_key.any():
                mask = Mask(mask.pairs, None)
        if mask.pairs.nbytes <= MASK_BYTES:
            with self._lock:
                self._masks[key] = mask
                while self.nbytes(device) > MASK_BYTES:
                    del self._masks[next(other for other in self._masks if other[-1] == device)]
        return mask

    def nbytes(self, device: torch.device) -> int:
        return sum(mask.pairs.nbytes for key, mask in self._masks.items() if key[-1] == device)


_masks = _MaskCache()


def _mask(offsets: Offsets, num_prefix_tokens: int, q: Tensor) -> Mask:
    # Tensors that are not real (FakeTensorMode, tracing) make masks that are not: none of them is kept.
    if torch.compiler.is_compiling() or type(q) is not Tensor:
        return _build_mask(offsets, q.shape[-2], num_prefix_tokens, q.device)
    # The layers of a model have the same head sets, each in an order of its own: one mask serves them all.
    sets = tuple(sorted(set(offsets)))
    mask = _masks.get(sets, q.shape[-2], num_prefix_tokens, q.device)
    if sets == offsets:
        return mask
    order = _index(tuple(sets.index(head_set) for head_set in offsets), q.device)
    rows = mask.rows_without_key
    return Mask(mask.pairs[order], None if rows is None else rows[order])


@lru_cache(maxsize=256)
def _index(order: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(order, device=device)


def _build_mask(
    offsets: Sequence[Sequence[int]], num_tokens: int, num_prefix_tokens: int, device: torch.device
) -> Mask:
    mask = dense_mask(offsets, num_tokens, num_prefix_tokens, device)
    if num_prefix_tokens > 0:
        return Mask(mask, None)
    return Mask(mask, ~mask.any(dim=-1, keepdim=True))
