"""Diagonal attention on the CPU: numba kernels that touch only the pairs on the diagonals.

Work is O(N · offsets · head_dim), memory O(N · (offsets + head_dim)). The kernels (numba_kernels.py) read
tensors of any strides and write `(B, N, heads, D)`, which is how a module's projections lie. Every number is
written by exactly one task, so results do not depend on the number of threads. Half precision is computed in
float32.

The backward pass has two phases. The first walks over queries: it stores each pair's softmax weight and logit
gradient, and sums dq. The second walks over keys, gathers their pairs and sums dk and dv.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.backends import numba_kernels, numba_kernels_backward
from fibo_robot.attention.backends.numba_diagonals import JOB
from fibo_robot.attention.backends.numba_runner import (
    LANES,
    as_given,
    computing_dtype,
    place,
    rows_as_stored,
    run,
)
from fibo_robot.attention.operator import empty_tokens_first


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
        offsets: the heads' offsets one after the other, ascending within a head.
        starts: heads + 1 positions in `offsets`; head h owns `offsets[starts[h]:starts[h + 1]]`.
        num_prefix_tokens, zero_logit, scale: as in `diagonal_attention`.

    Returns:
        out `(B, heads, N, D)` in q's dtype, a view of `(B, N, heads, D)`, and the log of each query's softmax
        denominator `(B, heads, N)`.
    """
    given, dtype = q, computing_dtype(q.dtype)
    rows, name = rows_as_stored(q, k, v)
    out = empty_tokens_first(rows[0])
    lse = torch.empty(q.shape[:-1], dtype=dtype)
    kept = _arrays(tuple(offsets), tuple(starts))
    job = _job(q, *kept, num_prefix_tokens, zero_logit, scale)
    place(job, q=rows[0], k=rows[1], v=rows[2], out=out)
    job["lse"] = lse.data_ptr()
    if zero_logit:
        total_v = rows[2].sum(dim=-2, keepdim=True, dtype=dtype)
        place(job, total=total_v)
    run(numba_kernels.forward(name, out.shape[-1]), job)
    return as_given(out, given), lse


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
    """Gradients of q, k and v, as `out` in shape and strides; arguments as in :func:`forward` and from it."""
    given, dtype = q, computing_dtype(q.dtype)
    batch, heads = q.shape[:2]
    rows, name = rows_as_stored(q, k, v, out, grad)
    grads = [empty_tokens_first(rows[0]) for _ in range(3)]
    kept = _arrays(tuple(offsets), tuple(starts))
    job = _job(q, *kept, num_prefix_tokens, zero_logit, scale)
    slots, width = int(job["slots"][0]), int(job["width"][0])
    masked = torch.empty(q.shape[:-1], dtype=dtype)
    pairs = torch.empty(2, batch * heads, slots, width, dtype=dtype)
    prefix_pairs = torch.empty(2, batch * heads, num_prefix_tokens, width, dtype=dtype)
    place(job, q=rows[0], k=rows[1], v=rows[2], out=rows[3], grad=rows[4])
    place(job, grad_q=grads[0], grad_k=grads[1], grad_v=grads[2])
    job["lse"], job["masked"] = lse.data_ptr(), masked.data_ptr()
    job["weights"], job["d_logits"] = pairs[0].data_ptr(), pairs[1].data_ptr()
    job["prefix_weights"], job["prefix_d_logits"] = prefix_pairs[0].data_ptr(), prefix_pairs[1].data_ptr()
    lanes = grads[0].shape[-1]
    run(numba_kernels_backward.backward_queries(name, lanes), job)
    if zero_logit:
        total_grad = masked[:, :, None] @ rows[4].to(dtype)
        place(job, total=total_grad)
    run(numba_kernels_backward.backward_keys(name, lanes), job)
    return as_given(grads[0], given), as_given(grads[1], given), as_given(grads[2], given)


def _job(
    q: Tensor, offsets: np.ndarray, starts: np.ndarray, num_prefix_tokens: int, zero_logit: bool, scale: float
) -> np.ndarray:
    batch, heads, tokens, _ = q.shape
    job = np.zeros(1, JOB)
    job["offsets"], job["starts"] = offsets.ctypes.data, starts.ctypes.data
    job["groups"], job["heads"], job["tokens"], job["prefix"] = (
        batch * heads,
        heads,
        tokens,
        num_prefix_tokens,
    )
    job["slots"] = num_prefix_tokens + 2 * int(np.diff(starts).max())
    job["width"] = -(-tokens // LANES) * LANES
    blocks = -(-(tokens - num_prefix_tokens) // LANES)
    workers = torch.get_num_threads()  # each run copies what it meets: no more runs than all of them need
    job["runs"] = 1 if workers == 1 else min(max(blocks, 1), -(-2 * workers // max(1, batch * heads)))
    job["zero_logit"], job["scale"] = zero_logit, scale
    return job


@lru_cache(maxsize=256)
def _arrays(offsets: tuple[int, ...], starts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(offsets, dtype=np.int64), np.array(starts, dtype=np.int64)
