"""Castling's training branch on the CPU: one parallel region forward, one backward, each of tasks of its own.

Weights are computed for as many queries of a head as stay in a core's cache, in the backward pass anew from
each query's log-sum-exp (branch_kernels.py). Half precision is computed in float32.
"""

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.backends.numba import branch_kernels as kernels
from fibo_robot.attention.backends.numba.blas import product_address, separate_rows
from fibo_robot.attention.backends.numba.runner import DTYPE_NAMES, LANES, computing_dtype, place, run
from fibo_robot.attention.operator import empty_tokens_first

CACHED_WEIGHTS = 2**17  # half a megabyte in float32; the backward pass has two such buffers


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
    given = q.dtype
    q, k, v = _rows(q, k, v)
    out, passed, lse = empty_tokens_first(q), q.new_empty(q.shape[:-1]), q.new_empty(q.shape[:-1])
    job = _job(q, k, scale)
    place(job, q=q, k=k, v=v, out=out)
    job["lse"], job["passed"], job["cutoffs"] = lse.data_ptr(), passed.data_ptr(), cutoffs.data_ptr()
    run(kernels.forward(DTYPE_NAMES[q.dtype]), job)
    return out.to(given), passed, lse


def strongest_softmax_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; arguments as in :func:`strongest_softmax` and from it."""
    given = q.dtype
    grad, q, k, v = _rows(grad, q, k, v)
    delta = torch.linalg.vecdot(grad, out.to(grad.dtype)).contiguous()
    into_q, into_k, into_v = (empty_tokens_first(q) for _ in range(3))
    job = _job(q, k, scale)
    place(job, q=q, k=k, v=v, grad=grad, grad_q=into_q, grad_k=into_k, grad_v=into_v)
    job["lse"], job["delta"], job["cutoffs"] = lse.data_ptr(), delta.data_ptr(), cutoffs.data_ptr()
    run(kernels.backward(DTYPE_NAMES[q.dtype]), job)
    return into_q.to(given), into_k.to(given), into_v.to(given)


def last_of_mass(q: Tensor, k: Tensor, mass: float, scale: float) -> Tensor:
    """The last of each head's strongest weights that together carry the share `mass`: `(heads,)`, float32.

    Args:
        q: `(B, heads, S, head_dim)`, the queries that count.
        k: `(B, heads, N, head_dim)`.
        mass: in (0, 1].
        scale: factor on q·k.
    """
    q, k = _rows(q.float(), k.float())
    found = torch.empty(q.shape[1])
    job = _job(q, k, scale)
    place(job, q=q, k=k)
    job["found"], job["mass"] = found.data_ptr(), mass
    run(kernels.find_threshold("float32"), job)
    return found


def _rows(*tensors: Tensor) -> list[Tensor]:
    return [separate_rows(tensor.to(computing_dtype(tensor.dtype))) for tensor in tensors]


def _job(q: Tensor, k: Tensor, scale: float) -> np.ndarray:
    batch, heads, queries, channels = q.shape
    job = np.zeros(1, kernels.JOB)
    job["product"], job["scale"] = product_address(DTYPE_NAMES[q.dtype]), scale
    job["batch"], job["heads"], job["queries"], job["channels"] = batch, heads, queries, channels
    tokens = k.shape[2]
    width = -(-tokens // LANES) * LANES
    blocks = -(-queries * width // max(CACHED_WEIGHTS, width))
    job["tokens"], job["width"], job["block"] = tokens, width, -(-queries // blocks)  # of about one size
    return job
