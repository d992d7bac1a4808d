"""Diagonal attention on the CPU: numba kernels that touch only the pairs on the diagonals.

Work is O(N · offsets · head_dim), memory O(N · (offsets + head_dim)). The kernels (numba_kernels.py) release
the GIL and are called from as many threads as PyTorch uses. Every number is written by exactly one task, so
results do not depend on the number of threads. Half precision is computed in float32. numba is imported with
the first call, and its compiled code is cached on disk.

The backward pass has two phases. The first walks over queries: it stores each pair's softmax weight and logit
gradient, and sums dq. The second walks over keys, gathers their pairs and sums dk and dv.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

TILE = 64  # tokens per task: q, out and the logits of a tile stay in the first cache
CONSTANT_HEAD_DIMS = (32, 64)  # compiled with loops of constant length; other head dims share one version


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
    from fibo_robot.attention.backends import numba_kernels

    given, dtype = q.dtype, _computing_dtype(q)
    out = torch.empty(q.shape, dtype=dtype)
    lse = torch.empty(q.shape[:-1], dtype=dtype)
    total_v = v.sum(dim=-2, dtype=dtype) if zero_logit else torch.zeros(*q.shape[:2], q.shape[3], dtype=dtype)
    q, k, v = (tensor.to(dtype).contiguous() for tensor in (q, k, v))
    _run(
        numba_kernels.forward,
        *map(_flat, (q, k, v, total_v)),
        *_offset_arrays(tuple(offsets), tuple(starts)),
        num_prefix_tokens,
        zero_logit,
        scale,
        TILE,
        *map(_flat, (out, lse)),
        _lanes(q),
    )
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
    from fibo_robot.attention.backends import numba_kernels

    given, dtype = q.dtype, _computing_dtype(q)
    batch, heads, tokens, head_dim = q.shape
    grad, q, k, v, out = (tensor.to(dtype).contiguous() for tensor in (grad, q, k, v, out))
    slots = num_prefix_tokens + 2 * max(end - start for start, end in pairwise(starts))
    weights, logits = (torch.empty(batch, heads, slots, tokens, dtype=dtype) for _ in range(2))
    prefix_weights, prefix_logits = (
        torch.empty(batch, heads, num_prefix_tokens, tokens, dtype=dtype) for _ in range(2)
    )
    grad_q, grad_k, grad_v = (torch.empty(q.shape, dtype=dtype) for _ in range(3))
    total_grad = torch.zeros(batch, heads, 1, head_dim, dtype=dtype)
    if zero_logit:
        patches = slice(num_prefix_tokens, None)
        total_grad = (-lse[:, :, None, patches]).exp() @ grad[:, :, patches]
    diagonals = _offset_arrays(tuple(offsets), tuple(starts))
    pairs = [_flat(t) for t in (weights, logits, prefix_weights, prefix_logits)]
    _run(
        numba_kernels.backward_queries,
        *map(_flat, (q, k, v, out, lse, grad)),
        *diagonals,
        num_prefix_tokens,
        zero_logit,
        scale,
        TILE,
        *pairs,
        _flat(torch.empty_like(lse)),
        _flat(grad_q),
        _lanes(q),
    )
    _run(
        numba_kernels.backward_keys,
        *map(_flat, (q, grad, total_grad[:, :, 0].contiguous())),
        *diagonals,
        num_prefix_tokens,
        TILE,
        *pairs,
        *map(_flat, (grad_k, grad_v)),
        _lanes(q),
    )
    return grad_q.to(given), grad_k.to(given), grad_v.to(given)


def _computing_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _lanes(q: Tensor) -> tuple[int, ...]:
    """A tuple whose length is head_dim where that is worth its own compiled version; see numba_kernels."""
    return tuple(range(q.shape[-1])) if q.shape[-1] in CONSTANT_HEAD_DIMS else ()


def _flat(tensor: Tensor) -> np.ndarray:
    """`(B, heads, ...)` as `(B · heads, ...)`, sharing memory."""
    return tensor.detach().flatten(0, 1).numpy()


@lru_cache(maxsize=256)
def _offset_arrays(offsets: tuple[int, ...], starts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(offsets, dtype=np.int64), np.array(starts, dtype=np.int64)


def _run(kernel: Callable[..., None], *arguments: Any, workers: int | None = None) -> None:
    """Call the kernel once per worker, each with its share of the tasks; as many as PyTorch has threads."""
    workers = torch.get_num_threads() if workers is None else workers
    others = [_pool(workers).submit(kernel, *arguments, w, workers) for w in range(1, workers)]
    kernel(*arguments, 0, workers)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=workers, thread_name_prefix="fibo-attention")


# Threads do not survive a fork: a child makes its own.
os.register_at_fork(after_in_child=_pool.cache_clear)
