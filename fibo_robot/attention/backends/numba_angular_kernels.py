"""The compiled passes of Castling's linear-angular attention on the CPU; numba_angular.py calls them.

A task is a tile of tokens of one head of one example.
"""

import math
from functools import lru_cache

import numpy as np
from numba.np.numpy_support import carray

from fibo_robot.attention.backends.numba_runner import (
    VIEW,
    Kernel,
    compile_kernel,
    inlined,
    next_task,
    row_at,
)
from fibo_robot.attention.backends.numba_vectors import (
    ITEMSIZE,
    add_scaled,
    dot,
    load,
    number,
    peek,
    poke,
    scaled,
    store,
    zero_row,
)

TILE = 64  # tokens per task

VIEWS = ("q", "k", "v", "constant", "scaled", "extra", "out", "grad", "grad_y", "grad_u")
# `inverse` is `(B, heads, N)`, `taps` `(heads, num_taps)`; both are addresses.
JOB = np.dtype(
    [("claimed", "i8"), *((name, VIEW) for name in (*VIEWS, "grad_q", "grad_k", "grad_v"))]
    + [(name, "i8") for name in ("inverse", "taps", "num_taps", "own", "has_extra")]
    + [(name, "i8") for name in ("batch", "heads", "tokens")]
    + [("epsilon", "f8")]
)


@inlined
def _claim(job):
    """Example, head, and tokens [first, last) of the next task; no tokens when none is left."""
    tiles = (job.tokens + TILE - 1) // TILE
    task = next_task(job)
    if task >= job.batch * job.heads * tiles:
        return 0, 0, 0, 0
    group, first = task // tiles, task % tiles * TILE
    return group // job.heads, group % job.heads, first, min(first + TILE, job.tokens)


@inlined
def _inverse_norm(row, epsilon):
    """1 / max(‖row‖, epsilon), as torch.nn.functional.normalize has it."""
    return number(1, row) / max(number(math.sqrt(dot(row, row)), row), number(epsilon, row))


@inlined
def _across(direction_grad, factor, epsilon):
    """How much of a vector's direction its gradient loses: none where the norm was below epsilon."""
    return direction_grad if factor * epsilon < 1 else direction_grad * 0


@inlined
def _row_scaled(job, batch, head, token, like):
    """scaled = v / (π ‖k‖): kᵀ·scaled is then k̂ᵀV/π."""
    factor = _inverse_norm(load(row_at(job.k, batch, head, token), like), job.epsilon) / number(math.pi, like)
    v = load(row_at(job.v, batch, head, token), like)
    store(row_at(job.scaled, batch, head, token), scaled(factor, v))


@inlined
def _row_finished(job, batch, head, token, like, item):
    """Turns q(k̂ᵀV)/π in `out` into y / ‖y‖ in place, plus the taps' weighted sum of the values around it."""
    place = row_at(job.out, batch, head, token)
    factor = _inverse_norm(load(row_at(job.q, batch, head, token), like), job.epsilon)
    constant = load(row_at(job.constant, batch, head, token if job.own else 0), like)
    y = add_scaled(scaled(factor, load(place, like)), number(0.5, like), constant)
    if job.has_extra:
        y = add_scaled(y, number(1, like), load(row_at(job.extra, batch, head, token), like))
    inverse = _inverse_norm(y, job.epsilon)
    poke(job.inverse + ((batch * job.heads + head) * job.tokens + token) * item, inverse)
    y = scaled(inverse, y)
    before = job.num_taps // 2
    for tap in range(max(0, before - token), min(job.num_taps, job.tokens - token + before)):
        weight = peek(job.taps + (head * job.num_taps + tap) * item, like)
        y = add_scaled(y, weight, load(row_at(job.v, batch, head, token + tap - before), like))
    store(place, y)


@inlined
def _row_before(job, batch, head, token, like, item):
    """From the output's gradient to that of y, and to that of q(k̂ᵀV)/π before its division by ‖q‖."""
    grad, out = (
        load(row_at(job.grad, batch, head, token), like),
        load(row_at(job.out, batch, head, token), like),
    )
    inverse = peek(job.inverse + ((batch * job.heads + head) * job.tokens + token) * item, like)
    lost = _across(dot(grad, out), inverse, job.epsilon)
    y = scaled(inverse, add_scaled(grad, -lost, out))
    store(row_at(job.grad_y, batch, head, token), y)
    factor = _inverse_norm(load(row_at(job.q, batch, head, token), like), job.epsilon)
    store(row_at(job.grad_u, batch, head, token), scaled(factor, y))


@inlined
def _row_turned(given, place, epsilon):
    """Takes the gradient of a row's direction, in place, to that of the row; returns 1 / ‖row‖."""
    factor, change = _inverse_norm(given, epsilon), load(place, given)
    lost = _across(dot(given, change) * factor * factor, factor, epsilon)
    store(place, scaled(factor, add_scaled(change, -lost, given)))
    return factor


@inlined
def _row_after(job, batch, head, token, like):
    """Takes the gradients of q̂ and k̂ to those of q and k, divides that of V by π ‖k‖, adds the constant's."""
    _row_turned(
        load(row_at(job.q, batch, head, token), like), row_at(job.grad_q, batch, head, token), job.epsilon
    )
    k = load(row_at(job.k, batch, head, token), like)
    factor = _row_turned(k, row_at(job.grad_k, batch, head, token), job.epsilon)
    place = row_at(job.grad_v, batch, head, token)
    change = scaled(factor / number(math.pi, like), load(place, like))
    if job.own:
        change = add_scaled(change, number(0.5, like), load(row_at(job.grad_y, batch, head, token), like))
    store(place, change)


@lru_cache
def scale_values(dtype: str, lanes: int) -> Kernel:
    """Writes `scaled` from `k` and `v`."""

    def body(pointer):
        job, like = carray(pointer, 1)[0], zero_row(dtype, lanes)
        while True:
            batch, head, first, last = _claim(job)
            if last == 0:
                break
            for token in range(first, last):
                _row_scaled(job, batch, head, token, like)

    return compile_kernel(body, JOB)


@lru_cache
def finish(dtype: str, lanes: int) -> Kernel:
    """Turns `out` into the result and writes `inverse`; reads `q`, `v`, `constant`, `extra` and `taps`."""
    item = ITEMSIZE[dtype]

    def body(pointer):
        job, like = carray(pointer, 1)[0], zero_row(dtype, lanes)
        while True:
            batch, head, first, last = _claim(job)
            if last == 0:
                break
            for token in range(first, last):
                _row_finished(job, batch, head, token, like, item)

    return compile_kernel(body, JOB)


@lru_cache
def before_products(dtype: str, lanes: int) -> Kernel:
    """Writes `grad_y` and `grad_u` from `grad`, `out`, `inverse` and `q`."""
    item = ITEMSIZE[dtype]

    def body(pointer):
        job, like = carray(pointer, 1)[0], zero_row(dtype, lanes)
        while True:
            batch, head, first, last = _claim(job)
            if last == 0:
                break
            for token in range(first, last):
                _row_before(job, batch, head, token, like, item)

    return compile_kernel(body, JOB)


@lru_cache
def after_products(dtype: str, lanes: int) -> Kernel:
    """Turns `grad_q`, `grad_k` and `grad_v` into the results; reads `q`, `k` and `grad_y`."""

    def body(pointer):
        job, like = carray(pointer, 1)[0], zero_row(dtype, lanes)
        while True:
            batch, head, first, last = _claim(job)
            if last == 0:
                break
            for token in range(first, last):
                _row_after(job, batch, head, token, like)

    return compile_kernel(body, JOB)
