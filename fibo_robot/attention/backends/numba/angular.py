"""Castling on the CPU: linear-angular attention and what stands around it, in two passes over memory.

In PyTorch's operators, the norms, the constant, the normalisation and the depthwise convolution are a dozen
passes over memory around two matrix products that take less time than they. Here two parallel regions do it
all forward, and two backward (angular_kernels.py). They read tensors of any strides; results lie in
memory as `(B, N, heads, D)`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.backends.numba import angular_kernels as kernels
from fibo_robot.attention.backends.numba.blas import product_address, separate_rows
from fibo_robot.attention.backends.numba.runner import as_given, place, rows_as_stored, run
from fibo_robot.attention.castling.angular import NORM_EPSILON, ConstantTerm, constant_value
from fibo_robot.attention.operator import empty_packed, empty_tokens_first, unpacked

ROWS_WORTH_THREADS = 4096  # tokens times heads times batch
TILE = 128  # tokens per task, at most


@dataclass(frozen=True)
class Forward:
    """What the forward pass gives, in the computing dtype.

    Attributes:
        out: y / ‖y‖ plus the convolution, `(B, heads, N, head_dim)`.
        direction: y / ‖y‖; `out` itself where there is no convolution, or no backward pass to come.
        inverse: what y was multiplied by, `(B, heads, N)`.
        state: k̂ᵀV/π, `(B, heads, head_dim, head_dim)`.
    """

    out: Tensor
    direction: Tensor
    inverse: Tensor
    state: Tensor


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branch: Tensor | None,
    branch_scale: float,
    taps: Tensor,
    const_term: ConstantTerm,
    *,
    training: bool,
) -> Forward:
    """y / ‖y‖ + taps * v with y = const/2 + q̂(k̂ᵀV)/π + branch_scale · branch, in float32 or float64.

    Args:
        q, k, v: `(B, heads, N, head_dim)`.
        branch: of the same shape, or None.
        branch_scale: its factor.
        taps: `(heads, taps)`, an odd number of filter weights per head, or none.
        const_term: as in :func:`fibo_robot.attention.castling.angular.linear_angular`.
        training: keep the directions apart from the output.
    """
    given, head_dim = q, q.shape[-1]
    (q, k, v), name = _rows(q, k, v)
    own = const_term == "own"
    constant = v if own else constant_value(v, const_term)
    out, inverse = empty_tokens_first(q), q.new_empty(q.shape[:-1])
    direction = empty_tokens_first(q) if training and taps.shape[1] else out
    state = q.new_empty(*q.shape[:2], q.shape[-1], q.shape[-1])
    taps = taps.detach().contiguous()
    job = _job(q, name, taps, own=own)
    place(job, q=q, k=k, v=v, constant=constant, direction=direction, out=out)
    job["inverse"], job["state"] = inverse.data_ptr(), state.data_ptr()
    if branch is not None:
        (branch,), _ = rows_as_stored(branch)
        place(job, branch=branch)
        job["has_branch"], job["branch_scale"] = True, branch_scale
    workers = _workers(q)
    run(kernels.summarise(name, q.shape[-1]), job, workers)
    run(kernels.finish(name, q.shape[-1]), job, workers)
    result = as_given(out, given)
    direction = result if direction is out else as_given(direction, given)
    return Forward(result, direction, inverse, state[..., :head_dim, :head_dim].contiguous())


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    direction: Tensor,
    inverse: Tensor,
    state: Tensor,
    taps: Tensor,
    const_term: ConstantTerm,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v as one `(B, N, 3, heads, D)`, of y, and of the taps.

    Arguments are as :func:`forward` took and returned them.

    With r = 1/‖q‖ and t the gradient of q̂, that of q is r·(t - q̂(q̂·t)); and so for k and for the output.
    """
    given = q
    (q, k, v), name = _rows(q, k, v)
    (grad, direction), _ = rows_as_stored(grad, direction)
    missing = q.shape[-1] - given.shape[-1]
    state = torch.nn.functional.pad(state, (0, missing, 0, missing)) if missing else state
    grad_y, packed = empty_tokens_first(q), empty_packed(q)
    grad_q, grad_k, grad_v = unpacked(packed)
    grad_state, taps = torch.empty_like(state), taps.detach().contiguous()
    job = _job(q, name, taps, own=const_term == "own")
    tiles = -(-q.shape[2] // int(job["tile"][0]))
    tap_grads = q.new_empty(*q.shape[:2], tiles, taps.shape[1])
    place(job, q=q, k=k, v=v, direction=direction, grad=grad)
    place(job, grad_y=grad_y, grad_q=grad_q, grad_k=grad_k, grad_v=grad_v)
    job["inverse"], job["state"] = inverse.data_ptr(), state.data_ptr()
    job["grad_state"], job["tap_grads"] = grad_state.data_ptr(), tap_grads.data_ptr()
    workers = _workers(q)
    run(kernels.differentiate_state(name, q.shape[-1]), job, workers)
    run(kernels.differentiate(name, q.shape[-1]), job, workers)
    if const_term != "own":
        whole = grad_y.sum(dim=-2, keepdim=True)
        grad_v.add_(whole, alpha=0.5 if const_term == "sum" else 0.5 / q.shape[-2])
    return as_given(packed, given, empty_packed), as_given(grad_y, given), tap_grads.sum(dim=(0, 2))


def _rows(*tensors: Tensor) -> tuple[list[Tensor], str]:
    """Tensors as kernels and BLAS read them: rows that do not overlap."""
    rows, name = rows_as_stored(*tensors)
    return [separate_rows(row) for row in rows], name


def _workers(q: Tensor) -> int | None:
    """One on short sequences: waking the other threads takes longer than a pass itself."""
    return None if q.shape[:-1].numel() >= ROWS_WORTH_THREADS else 1


def _job(q: Tensor, name: str, taps: Tensor, *, own: bool) -> np.ndarray:
    batch, heads, tokens, channels = q.shape
    job = np.zeros(1, kernels.JOB)
    job["batch"], job["heads"], job["tokens"], job["channels"] = batch, heads, tokens, channels
    job["tile"] = -(-tokens // -(-tokens // TILE)) if tokens else TILE  # of about one size
    job["taps"], job["num_taps"] = taps.data_ptr(), taps.shape[1]
    job["product"], job["own"], job["epsilon"] = product_address(name), own, NORM_EPSILON
    return job
