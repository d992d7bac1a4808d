"""Castling on the CPU: linear-angular attention with its norms fused, and in inference its convolution.

In PyTorch's operators, the norms, the constant, the normalisation and the depthwise convolution are a dozen
passes over memory around two matrix products that take less time than they. Here the products stay with
PyTorch's BLAS, and one pass before them and one after do the rest, forward and backward. The passes read
tensors of any strides; results lie in memory as `(B, N, heads, D)`.
"""

import math

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.angular import NORM_EPSILON, ConstantTerm, constant_value
from fibo_robot.attention.backends import numba_angular_kernels as kernels
from fibo_robot.attention.backends.numba_runner import as_given, place, rows_as_stored, run
from fibo_robot.attention.operator import empty_tokens_first

ROWS_WORTH_THREADS = 4096  # tokens times heads times batch


def castling_inference(q: Tensor, k: Tensor, v: Tensor, const_term: ConstantTerm, taps: Tensor) -> Tensor:
    """As :func:`fibo_robot.attention.angular.castling_inference`, in float32 or float64."""
    out, _, _ = _directions(q, k, v, None, const_term, taps)
    return out


def directions(
    q: Tensor, k: Tensor, v: Tensor, extra: Tensor | None, const_term: ConstantTerm
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`fibo_robot.attention.angular_training.directions`, in float32 or float64.

    Returns:
        The directions `(B, heads, N, head_dim)`, what they were divided by `(B, heads, N)`, inverted, and
        k̂ᵀV/π `(B, heads, head_dim, head_dim)`.
    """
    return _directions(q, k, v, extra, const_term, None)


def _directions(
    q: Tensor, k: Tensor, v: Tensor, extra: Tensor | None, const_term: ConstantTerm, taps: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    given = q
    (q, k, v), name = rows_as_stored(q, k, v)
    own = const_term == "own"
    constant = v if own else constant_value(v, const_term)
    scaled, out, inverse = empty_tokens_first(v), empty_tokens_first(q), q.new_empty(q.shape[:-1])
    job = _job(q, own=own, has_extra=extra is not None)
    place(job, q=q, k=k, v=v, constant=constant, scaled=scaled, out=out)
    job["inverse"] = inverse.data_ptr()
    if extra is not None:
        (extra,), _ = rows_as_stored(extra)
        place(job, extra=extra)
    if taps is not None:
        taps = taps.detach().contiguous()
        job["taps"], job["num_taps"] = taps.data_ptr(), taps.shape[1]
    workers = _workers(q)
    run(kernels.scale_values(name, q.shape[-1]), job, workers)
    state = product(k.transpose(-2, -1), scaled)
    product(q, state, out)
    run(kernels.finish(name, q.shape[-1]), job, workers)
    head_dim = given.shape[-1]
    return as_given(out, given), inverse, state[..., :head_dim, :head_dim].contiguous()


def directions_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    inverse: Tensor,
    state: Tensor,
    const_term: ConstantTerm,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and of what was added; arguments as :func:`directions` returned them.

    With r = 1/‖q‖ and t the gradient of q̂, that of q is r·(t - q̂(q̂·t)); and so for k and for the output.
    """
    given = q
    (grad, q, k, v, out), name = rows_as_stored(grad, q, k, v, out)
    missing = q.shape[-1] - given.shape[-1]
    state = torch.nn.functional.pad(state, (0, missing, 0, missing)) if missing else state
    grad_y, grad_u, grad_q, grad_k, grad_v = (empty_tokens_first(q) for _ in range(5))
    job = _job(q, own=const_term == "own")
    place(job, q=q, k=k, out=out, grad=grad, grad_y=grad_y, grad_u=grad_u, grad_q=grad_q)
    place(job, grad_k=grad_k, grad_v=grad_v)
    job["inverse"] = inverse.data_ptr()
    workers = _workers(q)
    run(kernels.before_products(name, q.shape[-1]), job, workers)
    grad_state = product(q.transpose(-2, -1), grad_u)
    product(grad_y, state.transpose(-2, -1), grad_q)
    product(v, grad_state.transpose(-2, -1) / math.pi, grad_k)
    product(k, grad_state, grad_v)
    run(kernels.after_products(name, q.shape[-1]), job, workers)
    if const_term != "own":
        whole = grad_y.sum(dim=-2, keepdim=True)
        grad_v.add_(whole, alpha=0.5 if const_term == "sum" else 0.5 / q.shape[-2])
    grads = [as_given(tensor, given) for tensor in (grad_q, grad_k, grad_v, grad_y)]
    return grads[0], grads[1], grads[2], grads[3]


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a @ b of `(B, heads, ·, ·)`, example by example: all at once, strided tensors would be copied."""
    if out is None:
        out = a.new_empty(*a.shape[:-1], b.shape[-1])
    for example in range(len(a)):
        torch.bmm(a[example], b[example], out=out[example])
    return out


def _workers(q: Tensor) -> int | None:
    """One on short sequences: waking the other threads takes longer than a pass itself."""
    return None if q.shape[:-1].numel() >= ROWS_WORTH_THREADS else 1


def _job(q: Tensor, *, own: bool, has_extra: bool = False) -> np.ndarray:
    batch, heads, tokens, _ = q.shape
    job = np.zeros(1, kernels.JOB)
    job["batch"], job["heads"], job["tokens"], job["epsilon"] = batch, heads, tokens, NORM_EPSILON
    job["own"], job["has_extra"] = own, has_extra
    return job
