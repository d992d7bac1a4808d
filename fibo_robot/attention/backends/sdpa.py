"""Diagonal attention through a dense mask and PyTorch's own kernels: works on any device and dtype.

It computes all N² pairs, so it is the right choice for short sequences only. The mask is always handed to
the kernel, fused or not.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.reference import dense_mask


def sdpa_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[Sequence[int]],
    *,
    num_prefix_tokens: int,
    mask_mode: str,
    scale: float,
) -> Tensor:
    """Diagonal attention on `(B, heads, N, head_dim)`; arguments as in `diagonal_attention`."""
    mask, rows_without_key = _mask(offsets, q.shape[-2], num_prefix_tokens, q.device)
    if mask_mode == "zero_logit":
        return ((q @ k.transpose(-2, -1)) * scale * mask).softmax(dim=-1) @ v
    if rows_without_key is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | rows_without_key, scale=scale)
    return out.masked_fill(rows_without_key, 0)


def _mask(
    offsets: Sequence[Sequence[int]], num_tokens: int, num_prefix_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    if torch.compiler.is_compiling():
        return _build_mask(offsets, num_tokens, num_prefix_tokens, device)
    return _cached_mask(offsets, num_tokens, num_prefix_tokens, device)


def _build_mask(
    offsets: Sequence[Sequence[int]], num_tokens: int, num_prefix_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The mask `(heads, N, N)`, and which rows of it are empty as `(heads, N, 1)`; None where none is."""
    mask = dense_mask(offsets, num_tokens, num_prefix_tokens, device)
    if num_prefix_tokens > 0:
        return mask, None
    return mask, ~mask.any(dim=-1, keepdim=True)


@lru_cache(maxsize=64)
def _cached_mask(
    offsets: tuple[tuple[int, ...], ...], num_tokens: int, num_prefix_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    # A mask first made under inference_mode could not be used for training later.
    with torch.inference_mode(False):
        return _build_mask(offsets, num_tokens, num_prefix_tokens, device)
