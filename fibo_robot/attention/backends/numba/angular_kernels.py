"""The compiled loops of Castling's linear-angular attention on the CPU; angular.py calls them.

A task is a tile of tokens of one head of one example, or such a head as a whole where something is summed
over its tokens. Matrix products are BLAS's, of a tile at a time, so that what stands before and after them
is still in the core's cache.
"""

import math
from functools import lru_cache

import numpy as np
from numba.np.numpy_support import carray

from fibo_robot.attention.backends.numba.blas import AS_IT_IS, TRANSPOSED, multiply
from fibo_robot.attention.backends.numba.lanes import dot, total
from fibo_robot.attention.backends.numba.runner import (
    VIEW,
    Kernel,
    compile_kernel,
    hold,
    inlined,
    next_task,
    row_at,
)
from fibo_robot.attention.backends.numba.vectors import (
    ITEMSIZE,
    add_scaled,
    load,
    number,
    peek,
    poke,
    product,
    scaled,
    store,
    zero_row,
)

VIEWS = ("q", "k", "v", "constant", "branch", "direction", "out", "grad", "grad_y")
# `inverse` is `(B, heads, N)`; `state` and `grad_state` are `(B, heads, D, D)`: k̂ᵀV/π, and the gradient of π
# times it; `taps` is `(heads, num_taps)` and `tap_grads` `(B, heads, tiles, num_taps)`. `channels` is D,
# `product` BLAS's.
JOB = np.dtype(
    [("claimed", "i8"), *((name, VIEW) for name in (*VIEWS, "grad_q", "grad_k", "grad_v"))]
    + [
        (name, "i8")
        for name in ("product", "inverse", "state", "grad_state", "taps", "tap_grads", "num_taps")
    ]
    + [(name, "i8") for name in ("own", "has_branch", "batch", "heads", "tokens", "channels", "tile")]
    + [("branch_scale", "f8"), ("epsilon", "f8")]
)


@inlined
def _tiles(job):
    return (job.tokens + job.tile - 1) // job.tile


@inlined
def _claim_tile(job):
    """Example, head, and tokens [first, last) of the next tile; no tokens when none is left."""
    tiles, task = _tiles(job), next_task(job)
    if task >= job.batch * job.heads * tiles:
        return 0, 0, 0, 0
    group, first = task // tiles, task % tiles * job.tile
    return group // job.heads, group % job.heads, first, min(first + job.tile, job.tokens)


@inlined
def _state_of(job, address, batch, head, item):
    return address + (batch * job.heads + head) * job.channels * job.channels * item


@inlined
def _add_to_state(job, view, batch, head, first, last, scratch, state, like, item):
    """Adds (rows of `view`)ᵀ · (rows in the scratch buffer) to a state; sets it where `first` is 0."""
    multiply(
        job.product, job.channels, job.channels, last - first, number(1, like),
        row_at(view, batch, head, first), TRANSPOSED, view.token // item,
        scratch, AS_IT_IS, job.channels,
        number(0 if first == 0 else 1, like), state, job.channels,
    )  # fmt: skip


@inlined
def _times_state(job, view, state, order, result, batch, head, first, last, factor, like, item):
    """Writes factor · (rows of `view`) · state to the same rows of `result`."""
    multiply(
        job.product, last - first, job.channels, job.channels, factor,
        row_at(view, batch, head, first), AS_IT_IS, view.token // item,
        state, order, job.channels,
        number(0, like), row_at(result, batch, head, first), result.token // item,
    )  # fmt: skip


@inlined
def _inverse_norm(row, epsilon):
    """1 / max(‖row‖, epsilon), as torch.nn.functional.normalize has it."""
    return number(1, row) / max(number(math.sqrt(dot(row, row)), row), number(epsilon, row))


@inlined
def _across(direction_grad, factor, epsilon):
    """How much of a vector's direction its gradient loses: none where the norm was below epsilon."""
    return direction_grad if factor * epsilon < 1 else direction_grad * 0


@inlined
def _row_scaled(job, batch, head, token, place, like):
    """Writes v / (π ‖k‖) to a place: kᵀ times such rows is k̂ᵀV/π."""
    factor = _inverse_norm(load(row_at(job.k, batch, head, token), like), job.epsilon) / number(math.pi, like)
    store(place, scaled(factor, load(row_at(job.v, batch, head, token), like)))


@inlined
def _row_finished(job, batch, head, token, like, item):
    """From q(k̂ᵀV)/π in `direction` to y / ‖y‖ there, and that plus the convolution of the values in `out`."""
    place = row_at(job.direction, batch, head, token)
    factor = _inverse_norm(load(row_at(job.q, batch, head, token), like), job.epsilon)
    constant = load(row_at(job.constant, batch, head, token if job.own else 0), like)
    y = add_scaled(scaled(factor, load(place, like)), number(0.5, like), constant)
    if job.has_branch:
        branch = load(row_at(job.branch, batch, head, token), like)
        y = add_scaled(y, number(job.branch_scale, like), branch)
    inverse = _inverse_norm(y, job.epsilon)
    poke(job.inverse + ((batch * job.heads + head) * job.tokens + token) * item, inverse)
    y = scaled(inverse, y)
    store(place, y)
    before = job.num_taps // 2
    for tap in range(max(0, before - token), min(job.num_taps, job.tokens - token + before)):
        weight = peek(job.taps + (head * job.num_taps + tap) * item, like)
        y = add_scaled(y, weight, load(row_at(job.v, batch, head, token + tap - before), like))
    store(row_at(job.out, batch, head, token), y)


@inlined
def _row_before(job, batch, head, token, place, like, item):
    """From the output's gradient to that of y; writes that of q(k̂ᵀV)/π, undivided by ‖q‖, to a place."""
    grad = load(row_at(job.grad, batch, head, token), like)
    direction = load(row_at(job.direction, batch, head, token), like)
    inverse = peek(job.inverse + ((batch * job.heads + head) * job.tokens + token) * item, like)
    lost = _across(dot(grad, direction), inverse, job.epsilon)
    y = scaled(inverse, add_scaled(grad, -lost, direction))
    store(row_at(job.grad_y, batch, head, token), y)
    factor = _inverse_norm(load(row_at(job.q, batch, head, token), like), job.epsilon)
    store(place, scaled(factor, y))


@inlined
def _row_turned(given, place, epsilon):
    """Takes the gradient of a row's direction, in place, to that of the row; returns 1 / ‖row‖."""
    factor, change = _inverse_norm(given, epsilon), load(place, given)
    lost = _across(dot(given, change) * factor * factor, factor, epsilon)
    store(place, scaled(factor, add_scaled(change, -lost, given)))
    return factor


@inlined
def _row_after(job, batch, head, token, like, item):
    """Takes the gradients of q̂ and k̂ to those of q and k, and adds what V gets otherwise than through k̂ᵀV."""
    _row_turned(
        load(row_at(job.q, batch, head, token), like), row_at(job.grad_q, batch, head, token), job.epsilon
    )
    k = load(row_at(job.k, batch, head, token), like)
    factor = _row_turned(k, row_at(job.grad_k, batch, head, token), job.epsilon)
    place = row_at(job.grad_v, batch, head, token)
    change = scaled(factor / number(math.pi, like), load(place, like))
    if job.own:
        change = add_scaled(change, number(0.5, like), load(row_at(job.grad_y, batch, head, token), like))
    before = job.num_taps // 2
    for tap in range(max(0, token + before + 1 - job.tokens), min(job.num_taps, token + before + 1)):
        weight = peek(job.taps + (head * job.num_taps + tap) * item, like)
        change = add_scaled(change, weight, load(row_at(job.grad, batch, head, token - tap + before), like))
    store(place, change)


@inlined
def _tap_gradients(job, batch, head, first, last, like, item):
    """Writes what one tile's outputs say about the taps."""
    group, before = batch * job.heads + head, job.num_taps // 2
    place = job.tap_grads + (group * _tiles(job) + first // job.tile) * job.num_taps * item
    for tap in range(job.num_taps):
        sums, shift = like, tap - before
        for token in range(max(first, -shift), min(last, job.tokens - shift)):
            value = load(row_at(job.v, batch, head, token + shift), like)
            grad = load(row_at(job.grad, batch, head, token), like)
            sums = add_scaled(sums, number(1, like), product(grad, value))
        poke(place + tap * item, total(sums))


@lru_cache
def summarise(dtype: str, lanes: int) -> Kernel:
    """Writes `state` from `k` and `v`. A task is a head of an example."""
    item = ITEMSIZE[dtype]

    def body(pointer):
        job, like = carray(pointer, 1)[0], zero_row(dtype, lanes)
        buffer = np.empty(job.tile * lanes * item, np.uint8)
        scratch = buffer.ctypes.data
        while True:
            group = next_task(job)
            if group >= job.batch * job.heads:
                break
            batch, head = group // job.heads, group % job.heads
            state = _state_of(job, job.state, batch, head, item)
            for first in range(0, job.tokens, job.tile):
                last = min(first + job.tile, job.tokens)
                for token in range(first, last):
                    _row_scaled(job, batch, head, token, scratch + (token - first) * lanes * item, like)
                _add_to_state(job, job.k, batch, head, first, last, scratch, state, like, item)
        hold(buffer)

    return compile_kernel(body, JOB)


@lru_cache
def finish(dtype: str, lanes: int) -> Kernel:
    """Writes `direction`, `out` and `inverse`; reads `q`, `v`, `state`, `constant`, `branch` and `taps`."""
    item = ITEMSIZE[dtype]

    def body(pointer):
        job, like = carray(pointer, 1)[0], zero_row(dtype, lanes)
        one = number(1, like)
        while True:
            batch, head, first, last = _claim_tile(job)
            if last == 0:
                break
            state = _state_of(job, job.state, batch, head, item)
            _times_state(
                job, job.q, state, AS_IT_IS, job.direction, batch, head, first, last, one, like, item
            )  # fmt: skip
            for token in range(first, last):
                _row_finished(job, batch, head, token, like, item)

    return compile_kernel(body, JOB)


@lru_cache
def differentiate_state(dtype: str, lanes: int) -> Kernel:
    """Writes `grad_y` and `grad_state` from `grad`, `direction`, `inverse` and `q`. A task is a head."""
    item = ITEMSIZE[dtype]

    def body(pointer):
        job, like = carray(pointer, 1)[0], zero_row(dtype, lanes)
        buffer = np.empty(job.tile * lanes * item, np.uint8)
        scratch = buffer.ctypes.data
        while True:
            group = next_task(job)
            if group >= job.batch * job.heads:
                break
            batch, head = group // job.heads, group % job.heads
            state = _state_of(job, job.grad_state, batch, head, item)
            for first in range(0, job.tokens, job.tile):
                last = min(first + job.tile, job.tokens)
                for token in range(first, last):
                    place = scratch + (token - first) * lanes * item
                    _row_before(job, batch, head, token, place, like, item)
                _add_to_state(job, job.q, batch, head, first, last, scratch, state, like, item)
        hold(buffer)

    return compile_kernel(body, JOB)


@lru_cache
def differentiate(dtype: str, lanes: int) -> Kernel:
    """Writes `grad_q`, `grad_k`, `grad_v` and `tap_grads` after :func:`differentiate_state`."""
    item = ITEMSIZE[dtype]

    def body(pointer):
        job, like = carray(pointer, 1)[0], zero_row(dtype, lanes)
        one, part = number(1, like), number(1 / math.pi, like)
        while True:
            batch, head, first, last = _claim_tile(job)
            if last == 0:
                break
            at = batch, head, first, last
            state = _state_of(job, job.state, batch, head, item)
            grad_state = _state_of(job, job.grad_state, batch, head, item)
            _times_state(job, job.grad_y, state, TRANSPOSED, job.grad_q, *at, one, like, item)
            _times_state(job, job.v, grad_state, TRANSPOSED, job.grad_k, *at, part, like, item)
            _times_state(job, job.k, grad_state, AS_IT_IS, job.grad_v, *at, one, like, item)
            for token in range(first, last):
                _row_after(job, batch, head, token, like, item)
            _tap_gradients(job, batch, head, first, last, like, item)

    return compile_kernel(body, JOB)
