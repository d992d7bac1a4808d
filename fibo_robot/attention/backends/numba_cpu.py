"""Diagonal attention on the CPU: numba kernels that touch only the pairs on the diagonals.

Work is O(N · offsets · head_dim), memory O(N · (offsets + head_dim)). The kernels (numba_kernels.py) release
the GIL and are called from as many threads as PyTorch uses. Every number is written by exactly one task, so
results do not depend on the number of threads. Half precision is computed in float32.

The backward pass has two phases. The first walks over queries: it stores each pair's softmax weight and logit
gradient, and sums dq. The second walks over keys, gathers their pairs and sums dk and dv.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.backends import numba_kernels
from fibo_robot.attention.backends.numba_kernels import Diagonals, Pairs
from fibo_robot.attention.backends.numba_runner import TILE, lanes, per_head, run


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention and log-sum-exp.

    Args:
        q, k, v: `(B, heads, N, D)`.
        offsets: the heads' offsets one after the other.
        starts: heads + 1 positions in `offsets`; head h owns `offsets[starts[h]:starts[h + 1]]`.
        num_prefix_tokens, zero_logit, scale: as in `diagonal_attention`.

    Returns:
        out `(B, heads, N, D)` in q's dtype, and the log of each query's softmax denominator `(B, heads, N)`.
    """
    given, dtype = q.dtype, _computing_dtype(q)
    out = torch.empty(q.shape, dtype=dtype)
    lse = torch.empty(q.shape[:-1], dtype=dtype)
    total_v = v.sum(dim=-2, dtype=dtype) if zero_logit else torch.zeros(*q.shape[:2], q.shape[3], dtype=dtype)
    q, k, v = (tensor.to(dtype).contiguous() for tensor in (q, k, v))
    diagonals = Diagonals(*_arrays(offsets, starts), num_prefix_tokens, zero_logit, scale, TILE, lanes(q))
    run(numba_kernels.forward, *map(per_head, (q, k, v, total_v)), diagonals, *map(per_head, (out, lse)))
    return out.to(given), lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, each `(B, heads, N, D)`; arguments as in :func:`forward` and from it."""
    given, dtype = q.dtype, _computing_dtype(q)
    batch, heads, tokens, head_dim = q.shape
    grad, q, k, v, out = (tensor.to(dtype).contiguous() for tensor in (grad, q, k, v, out))
    slots = num_prefix_tokens + 2 * max(end - start for start, end in pairwise(starts))
    grad_q, grad_k, grad_v = (torch.empty(q.shape, dtype=dtype) for _ in range(3))
    delta, masked = torch.empty_like(lse), torch.empty_like(lse)
    diagonals = Diagonals(*_arrays(offsets, starts), num_prefix_tokens, zero_logit, scale, TILE, lanes(q))
    pairs = Pairs(
        *(np.empty((batch * heads, slots, tokens), per_head(q).dtype) for _ in range(2)),
        *(np.empty((batch * heads, num_prefix_tokens, tokens), per_head(q).dtype) for _ in range(2)),
    )
    inputs = map(per_head, (q, k, v, out, lse, grad))
    run(numba_kernels.backward_queries, *inputs, diagonals, pairs, *map(per_head, (delta, masked, grad_q)))
    total_grad = torch.zeros(batch, heads, 1, head_dim, dtype=dtype)
    if zero_logit:
        total_grad = masked[:, :, None] @ grad
    inputs = map(per_head, (q, grad, total_grad[:, :, 0].contiguous()))
    run(numba_kernels.backward_keys, *inputs, diagonals, pairs, *map(per_head, (grad_k, grad_v)))
    return grad_q.to(given), grad_k.to(given), grad_v.to(given)


def _computing_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _arrays(offsets: Sequence[int], starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    return _kept_arrays(tuple(offsets), tuple(starts))


@lru_cache(maxsize=256)
def _kept_arrays(offsets: tuple[int, ...], starts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(offsets, dtype=np.int64), np.array(starts, dtype=np.int64)
