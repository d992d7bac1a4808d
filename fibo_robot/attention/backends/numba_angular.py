"""Castling on the CPU: linear-angular attention with its norms fused, and in inference its convolution.

In PyTorch's operators, the norms, the constant, the normalisation and the depthwise convolution are a dozen
passes over memory around two matrix products that take less time than they. Here the products stay with
PyTorch's BLAS, and one pass before them and one after do the rest, forward and backward.
"""

import math

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.angular import NORM_EPSILON, ConstantTerm, constant_value
from fibo_robot.attention.backends.numba_runner import TILE, add_scaled, compiled, dot, lanes, run, width

ROWS_WORTH_THREADS = 4096  # tokens times heads times batch


def castling_inference(q: Tensor, k: Tensor, v: Tensor, const_term: ConstantTerm, taps: Tensor) -> Tensor:
    """As :func:`fibo_robot.attention.angular.castling_inference`, in float32 or float64."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    own = const_term == "own"
    constant = v[:, :, :1].contiguous() if own else constant_value(v, const_term)
    constant_width = lanes(q)
    # On short sequences, waking the other threads takes longer than the pass itself.
    workers = None if q.shape[:-1].numel() >= ROWS_WORTH_THREADS else 1
    scaled = torch.empty_like(v)
    run(_scale_values, _rows(k), _rows(v), _rows(scaled), NORM_EPSILON, constant_width, workers=workers)
    out = q @ (k.transpose(-2, -1) @ scaled)
    arrays = [_rows(q), _rows(v), _rows(constant)]
    # A copy: numpy pins the memory that it shares, and sharded training frees a parameter's between two uses.
    shape = (q.shape[2], taps.detach().clone(memory_format=torch.contiguous_format).numpy(), TILE)
    run(_finish, *arrays, *shape, _rows(out), own, NORM_EPSILON, constant_width, workers=workers)
    return out


def directions(
    q: Tensor, k: Tensor, v: Tensor, extra: Tensor | None, const_term: ConstantTerm
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`fibo_robot.attention.angular_training.directions`, in float32 or float64.

    Returns:
        The directions `(B, heads, N, head_dim)`, what they were divided by `(B, heads, N)`, inverted, and
        k̂ᵀV/π `(B, heads, head_dim, head_dim)`.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    own, lane = const_term == "own", lanes(q)
    constant = v[:, :, :1].contiguous() if own else constant_value(v, const_term)
    added = q[:0] if extra is None else extra.contiguous()
    scaled = torch.empty_like(v)
    run(_scale_values, _rows(k), _rows(v), _rows(scaled), NORM_EPSILON, lane)
    state = k.transpose(-2, -1) @ scaled
    out, inverse = q @ state, q.new_empty(q.shape[:-1])
    rows = [_rows(tensor) for tensor in (q, v, constant, added, out)]
    run(_finish_directions, *rows, inverse.flatten().numpy(), q.shape[2], own, NORM_EPSILON, lane)
    return out, inverse, state


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
    grad, q, k, v = grad.contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    lane = lanes(q)
    grad_y, grad_u = torch.empty_like(q), torch.empty_like(q)
    rows = [_rows(tensor) for tensor in (grad, out, q, grad_y, grad_u)]
    run(_before_products, *rows, inverse.flatten().numpy(), NORM_EPSILON, lane)
    grad_state = q.transpose(-2, -1) @ grad_u
    grad_q = grad_y @ state.transpose(-2, -1)
    grad_k = v @ (grad_state.transpose(-2, -1) / math.pi)
    grad_v = k @ grad_state
    rows = [_rows(tensor) for tensor in (q, k, grad_q, grad_k, grad_v)]
    run(_after_products, *rows, NORM_EPSILON, lane)
    if const_term == "own":
        grad_v.add_(grad_y, alpha=0.5)
    else:
        whole = grad_y.sum(dim=-2, keepdim=True)
        grad_v.add_(whole, alpha=0.5 if const_term == "sum" else 0.5 / q.shape[-2])
    return grad_q, grad_k, grad_v, grad_y


def _rows(tensor: Tensor) -> np.ndarray:
    """`(B, heads, N, D)` as `(B · heads · N, D)`, sharing memory."""
    return tensor.detach().flatten(0, 2).numpy()


@compiled
def _inverse_norm(a, row, epsilon, lanes):
    """1 / max(‖a[row]‖, epsilon), as torch.nn.functional.normalize has it."""
    norm = math.sqrt(dot(a, row, a, row, lanes))
    return a.dtype.type(1) / max(a.dtype.type(norm), a.dtype.type(epsilon))


@compiled
def _scale_values(k, v, scaled, epsilon, lanes, worker, workers):
    """scaled = v / (π ‖k‖), token by token: kᵀ·scaled is then k̂ᵀV/π. All `(BH · N, D)`."""
    rows = k.shape[0]
    pi = k.dtype.type(math.pi)
    for row in range(worker * rows // workers, (worker + 1) * rows // workers):
        factor = _inverse_norm(k, row, epsilon, lanes) / pi
        for d in range(width(lanes, k)):
            scaled[row, d] = v[row, d] * factor


@compiled
def _normalise_rows(q, v, constant, bh, first, last, out, own, epsilon, lanes):
    half = q.dtype.type(0.5)
    for row in range(first, last):
        factor = _inverse_norm(q, row, epsilon, lanes)
        if own:
            for d in range(width(lanes, q)):
                out[row, d] = out[row, d] * factor + half * v[row, d]
        else:
            for d in range(width(lanes, q)):
                out[row, d] = out[row, d] * factor + half * constant[bh, d]
        factor = _inverse_norm(out, row, epsilon, lanes)
        for d in range(width(lanes, q)):
            out[row, d] *= factor


@compiled
def _convolve_rows(v, taps, begin, end, first, last, out, lanes):
    """Adds the taps' weighted sum of the tokens around each row; a sequence is the rows [begin, end)."""
    before = taps.shape[0] // 2
    for tap in range(taps.shape[0]):
        shift = tap - before
        weight = taps[tap]
        for row in range(max(first, begin - shift), min(last, end - shift)):
            add_scaled(weight, v, row + shift, out, row, lanes)


@compiled
def _finish(q, v, constant, tokens, taps, tile, out, own, epsilon, lanes, worker, workers):
    """Turns q(k̂ᵀV)/π in `out` into the result, in place. `q`, `v`, `out (BH · N, D)`, `constant (BH, D)`."""
    tiles = (tokens + tile - 1) // tile
    for task in range(worker, q.shape[0] // tokens * tiles, workers):
        bh = task // tiles
        begin, end = bh * tokens, (bh + 1) * tokens
        first = begin + task % tiles * tile
        last = min(first + tile, end)
        _normalise_rows(q, v, constant, bh, first, last, out, own, epsilon, lanes)
        _convolve_rows(v, taps[bh % taps.shape[0]], begin, end, first, last, out, lanes)


@compiled
def _finish_directions(q, v, constant, extra, out, inverse, tokens, own, epsilon, lanes, worker, workers):
    """Turns q(k̂ᵀV)/π in `out` into y / ‖y‖, in place; all `(BH · N, D)`, see `directions`."""
    rows = q.shape[0]
    half = q.dtype.type(0.5)
    for row in range(worker * rows // workers, (worker + 1) * rows // workers):
        factor = _inverse_norm(q, row, epsilon, lanes)
        for d in range(width(lanes, q)):
            value = v[row, d] if own else constant[row // tokens, d]
            out[row, d] = out[row, d] * factor + half * value
        if extra.shape[0] > 0:
            for d in range(width(lanes, q)):
                out[row, d] += extra[row, d]
        inverse[row] = _inverse_norm(out, row, epsilon, lanes)
        for d in range(width(lanes, q)):
            out[row, d] *= inverse[row]


@compiled
def _across(direction_grad, factor, epsilon):
    """How much of a vector's direction its gradient loses: none where the norm was below epsilon."""
    return direction_grad if factor * epsilon < 1 else direction_grad * 0


@compiled
def _before_products(grad, out, q, grad_y, grad_u, inverse, epsilon, lanes, worker, workers):
    """From the output's gradient to that of y, and to that of q(k̂ᵀV)/π before its division by ‖q‖."""
    rows = q.shape[0]
    for row in range(worker * rows // workers, (worker + 1) * rows // workers):
        lost = _across(dot(grad, row, out, row, lanes), inverse[row], epsilon)
        factor = _inverse_norm(q, row, epsilon, lanes)
        for d in range(width(lanes, q)):
            grad_y[row, d] = (grad[row, d] - lost * out[row, d]) * inverse[row]
            grad_u[row, d] = grad_y[row, d] * factor


@compiled
def _after_products(q, k, grad_q, grad_k, grad_v, epsilon, lanes, worker, workers):
    """Takes the gradients of q̂ and k̂, in place, to those of q and k; and divides that of V by π ‖k‖."""
    rows = q.shape[0]
    pi = q.dtype.type(math.pi)
    for row in range(worker * rows // workers, (worker + 1) * rows // workers):
        factor = _inverse_norm(q, row, epsilon, lanes)
        lost = _across(dot(q, row, grad_q, row, lanes) * factor * factor, factor, epsilon)
        for d in range(width(lanes, q)):
            grad_q[row, d] = (grad_q[row, d] - lost * q[row, d]) * factor
        factor = _inverse_norm(k, row, epsilon, lanes)
        lost = _across(dot(k, row, grad_k, row, lanes) * factor * factor, factor, epsilon)
        for d in range(width(lanes, k)):
            grad_k[row, d] = (grad_k[row, d] - lost * k[row, d]) * factor
            grad_v[row, d] *= factor / pi
