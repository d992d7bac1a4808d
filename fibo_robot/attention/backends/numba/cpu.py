"""Diagonal attention on the CPU: numba kernels that touch only the pairs on the diagonals.

Work is O(N · offsets · head_dim) for each head, memory beside the results O(N · (offsets + head_dim)) for
each thread. The kernels (kernels.py) read tensors of any strides and write `(B, N, heads, D)`, which is how a
module's projections lie. Every number is written by exactly one task, so results do not depend on the number
of threads. Half precision is computed in float32.

The backward pass walks over queries, keeps each pair's softmax weight and logit gradient, and sums dq; then
over keys, gathers their pairs, and sums dk and dv.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.backends.numba import kernels, kernels_backward
from fibo_robot.attention.backends.numba.diagonals import JOB
from fibo_robot.attention.backends.numba.runner import (
    LANES,
    as_given,
    computing_dtype,
    place,
    rows_as_stored,
    run,
)
from fibo_robot.attention.operator import empty_packed, empty_tokens_first, unpacked


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
    run(kernels.forward(name, out.shape[-1]), job)
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
) -> Tensor:
    """Gradients of q, k and v as one `(B, N, 3, heads, D)`; arguments as in :func:`forward` and from it."""
    rows, name = rows_as_stored(q, k, v, out, grad)
    packed = empty_packed(rows[0])
    kept = _arrays(tuple(offsets), tuple(starts))
    job = _job(q, *kept, num_prefix_tokens, zero_logit, scale)
    place(job, q=rows[0], k=rows[1], v=rows[2], out=rows[3], grad=rows[4])
    grads = unpacked(packed)
    place(job, grad_q=grads[0], grad_k=grads[1], grad_v=grads[2])
    job["lse"] = lse.data_ptr()
    groups, runs = int(job["groups"][0]), int(job["runs"][0])
    finished = np.zeros(groups, np.int64)
    job["finished"] = finished.ctypes.data
    if runs > 1:
        size = int(job["rows_kept"][0]), int(job["width"][0])
        pairs = torch.empty(groups, *size, dtype=computing_dtype(q.dtype))
        job["pairs"] = pairs.data_ptr()
    run(kernels_backward.backward(name, packed.shape[-1]), job)
    return as_given(packed, q, empty_packed)


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
    job["rows_kept"] = 2 * (job["slots"] + num_prefix_tokens) + 1
    job["width"] = -(-tokens // LANES) * LANES
    blocks = -(-(tokens - num_prefix_tokens) // LANES)
    workers = torch.get_num_threads()  # each run copies what it meets: no more runs than all of them need
    job["runs"] = 1 if workers == 1 else min(max(blocks, 1), -(-2 * workers // max(1, batch * heads)))
    job["zero_logit"], job["scale"] = zero_logit, scale
    return job


@lru_cache(maxsize=256)
def _arrays(offsets: tuple[int, ...], starts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(offsets, dtype=np.int64), np.array(starts, dtype=np.int64)
