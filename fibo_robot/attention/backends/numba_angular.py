"""Castling's inference on the CPU: linear-angular attention with its norms and convolution fused.

In PyTorch's operators, the norms, the constant, the normalisation and the depthwise convolution are a dozen
passes over memory around two matrix products that take less time than they. Here the products stay with
PyTorch's BLAS, and one pass before them and one after do the rest. There is no backward pass: training uses
the operators.
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
    shape = (q.shape[2], taps.detach().contiguous().numpy(), TILE)
    run(_finish, *arrays, *shape, _rows(out), own, NORM_EPSILON, constant_width, workers=workers)
    return out


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
