"""Ground truth: diagonal attention through a dense mask, slow and obvious, in any floating dtype.

Every other backend is tested against this one in float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def dense_mask(
    offsets: Sequence[Sequence[int]],
    num_tokens: int,
    num_prefix_tokens: int = 1,
    device: torch.device | str | None = None,
) -> Tensor:
    """The pairs that each head computes.

    Args:
        offsets: one list per head; patches j and k are on when |j - k| is in it.
        num_tokens: length N of the whole sequence, prefix tokens included.
        num_prefix_tokens: leading tokens whose rows and columns are on in every head.
        device: where the mask is made.

    Returns:
        bool `(heads, N, N)`, True where query (row) attends to key (column).
    """
    num_patches = num_tokens - num_prefix_tokens
    table = torch.zeros(len(offsets), max(num_patches, 1), dtype=torch.bool)
    for head, head_set in enumerate(offsets):
        table[head, [offset for offset in head_set if offset < num_patches]] = True
    patches = torch.arange(num_patches, device=device)
    distance = (patches[:, None] - patches[None, :]).abs()
    mask = torch.ones(len(offsets), num_tokens, num_tokens, dtype=torch.bool, device=device)
    mask[:, num_prefix_tokens:, num_prefix_tokens:] = table.to(mask.device)[:, distance]
    return mask


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[Sequence[int]],
    *,
    num_prefix_tokens: int = 1,
    mask_mode: str = "drop",
    scale: float | None = None,
) -> Tensor:
    """Diagonal attention by its definition; see :func:`fibo_robot.attention.diagonal_attention`.

    Works in the dtype of its inputs. A query with no key at all (possible only without prefix tokens in
    `drop` mode) gives zeros. NaN and infinity in a masked k or v have no influence.

    Args:
        q, k, v: `(B, heads, N, head_dim)`.

    Returns:
        `(B, heads, N, head_dim)`.
    """
    mask = dense_mask(offsets, q.shape[-2], num_prefix_tokens, q.device)
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    logits = (q @ k.transpose(-2, -1)) * factor
    if mask_mode == "zero_logit":
        return logits.masked_fill(~mask, 0).softmax(dim=-1) @ v
    has_key = mask.any(dim=-1, keepdim=True)
    # Rows without a key are opened before the softmax and closed after it: no NaN, also not in the gradient.
    seen = logits.masked_fill(~mask, float("-inf")).masked_fill(~has_key, 0)
    weights = seen.softmax(dim=-1) * has_key
    finite = v.isfinite()
    out = weights @ v.masked_fill(~finite, 0)
    # Zero times NaN is NaN: what is not finite is added key by key, to the queries that see it.
    for key in (~finite).any(dim=-1).flatten(0, 1).any(dim=0).nonzero().flatten().tolist():
        special = weights[..., key, None] * v[..., key, None, :].masked_fill(finite[..., key, None, :], 0)
        out = out + special.masked_fill(~mask[:, :, key, None], 0)
    return out
