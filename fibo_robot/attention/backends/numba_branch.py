"""Castling's training branch on the CPU: products by BLAS, one compiled pass over the weights between.

Weights are computed for so many queries and heads at a time as stay in a core's cache, in the backward pass
anew from each query's log-sum-exp: there one pass turns logits and the products of gradients with values
into what multiplies them. Half precision is computed in float32.
"""

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.backends import numba_branch_kernels as kernels
from fibo_robot.attention.backends.numba_runner import DTYPE_NAMES, LANES, run
from fibo_robot.attention.operator import empty_tokens_first

CACHED_WEIGHTS = 2**17  # half a megabyte in float32; the backward pass has two such buffers

Block = tuple[int, slice, slice]  # example, heads, queries


def strongest_softmax(
    q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The branch, each query's share of mass that passed, and its log-sum-exp.

    Args:
        q, k, v: `(B, heads, N, head_dim)`, of any strides.
        cutoffs: `(heads,)`, float32: weights above them pass.
        scale: factor on q·k.

    Returns:
        `(B, heads, N, head_dim)` in q's dtype, and twice `(B, heads, N)` in the computing dtype.
    """
    given, dtype = q.dtype, torch.promote_types(q.dtype, torch.float32)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    out, passed, lse = empty_tokens_first(q), q.new_empty(q.shape[:-1]), q.new_empty(q.shape[:-1])
    blocks = _blocks(q)
    buffer = _buffer(q, blocks)
    for example, heads, queries in blocks:
        weights = _part(buffer, q, heads, queries)
        torch.bmm(q[example, heads, queries], k[example, heads].transpose(1, 2), out=weights)
        job = _job(q, (example, heads, queries), weights, cutoffs, lse, scale)
        job["passed"] = passed.data_ptr()
        run(kernels.keep_strongest(DTYPE_NAMES[dtype]), job)
        torch.bmm(weights, v[example, heads], out=out[example, heads, queries])
    return out.to(given), passed, lse


def strongest_softmax_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; arguments as in :func:`strongest_softmax` and from it."""
    given, dtype = q.dtype, lse.dtype
    grad, q, k, v = grad.to(dtype), q.to(dtype), k.to(dtype), v.to(dtype)
    into_q, into_k, into_v = (empty_tokens_first(q) for _ in range(3))
    blocks = _blocks(q)
    weights_buffer, changes_buffer = _buffer(q, blocks), _buffer(q, blocks)
    for example, heads, queries in blocks:
        weights, changes = (_part(buffer, q, heads, queries) for buffer in (weights_buffer, changes_buffer))
        of_q, of_grad = q[example, heads, queries], grad[example, heads, queries]
        torch.bmm(of_q, k[example, heads].transpose(1, 2), out=weights)
        torch.bmm(of_grad, v[example, heads].transpose(1, 2), out=changes)
        job = _job(q, (example, heads, queries), weights, cutoffs, lse, scale)
        job["changes"] = changes.data_ptr()
        run(kernels.differentiate(DTYPE_NAMES[dtype]), job)
        torch.bmm(changes, k[example, heads], out=into_q[example, heads, queries])
        for result, left, right in ((into_k, changes, of_q), (into_v, weights, of_grad)):
            part = result[example, heads]
            if queries.start == 0:
                torch.bmm(left.transpose(1, 2), right, out=part)
            else:
                torch.baddbmm(part, left.transpose(1, 2), right, out=part)
    return into_q.to(given), into_k.to(given), into_v.to(given)


def last_of_mass(q: Tensor, k: Tensor, mass: float, scale: float) -> Tensor:
    """The last of each head's strongest weights that together carry the share `mass`: `(heads,)`, float32.

    Args:
        q: `(B, heads, S, head_dim)`, the queries that count.
        k: `(B, heads, N, head_dim)`.
        mass: in (0, 1].
        scale: factor on q·k.
    """
    batch, heads, count, _ = q.shape
    width = _width(k)
    weights = torch.empty(heads, batch * count, width)
    for example in range(batch):
        rows = weights[:, example * count : (example + 1) * count, : k.shape[2]]
        torch.bmm(q[example].float(), k[example].float().transpose(1, 2), out=rows)
    found = torch.empty(heads)
    job = np.zeros(1, kernels.JOB)
    job["weights"], job["found"], job["mass"], job["scale"] = (
        weights.data_ptr(),
        found.data_ptr(),
        mass,
        scale,
    )
    job["groups"], job["rows"], job["columns"], job["width"] = heads, batch * count, k.shape[2], width
    run(kernels.find_threshold("float32"), job)
    return found


def _width(k: Tensor) -> int:
    return -(-k.shape[2] // LANES) * LANES


def _blocks(q: Tensor) -> list[Block]:
    """Which weights are computed together."""
    batch, heads, tokens, _ = q.shape
    width = _width(q)
    together = min(heads, max(1, CACHED_WEIGHTS // (tokens * width)))
    parts = -(-tokens * width // max(CACHED_WEIGHTS, width))
    rows = -(-tokens // parts)  # blocks of about one size
    return [
        (example, slice(head, min(head + together, heads)), slice(row, min(row + rows, tokens)))
        for example in range(batch)
        for head in range(0, heads, together)
        for row in range(0, tokens, rows)
    ]


def _buffer(q: Tensor, blocks: list[Block]) -> Tensor:
    """Room for the first block's weights; no block is larger."""
    _, heads, queries = blocks[0]
    return q.new_empty((heads.stop - heads.start) * (queries.stop - queries.start) * _width(q))


def _part(buffer: Tensor, q: Tensor, heads: slice, queries: slice) -> Tensor:
    """`(heads, queries, N)` of a buffer, whose rows begin at multiples of LANES."""
    shape = heads.stop - heads.start, queries.stop - queries.start, _width(q)
    return buffer[: shape[0] * shape[1] * shape[2]].view(shape)[:, :, : q.shape[2]]


def _job(q: Tensor, block: Block, weights: Tensor, cutoffs: Tensor, lse: Tensor, scale: float) -> np.ndarray:
    example, heads, queries = block
    job = np.zeros(1, kernels.JOB)
    job["weights"], job["cutoffs"], job["lse"], job["scale"] = (
        weights.data_ptr(), cutoffs.data_ptr(), lse.data_ptr(), scale,
    )  # fmt: skip
    job["groups"], job["rows"], job["columns"] = weights.shape
    job["width"], job["tokens"] = _width(q), q.shape[2]
    job["head"], job["first_group"], job["first_row"] = heads.start, example * q.shape[1], queries.start
    return job
