"""The compiled loops of Castling's training branch on the CPU; branch.py calls them.

A task is a block of queries of one head of one example, in the backward pass such a head as a whole. Its
weights are the rows of a buffer that stays in the core's cache, `width` apart, a multiple of LANES; what
stands behind the last key is overwritten by -inf, which weighs nothing. Before and after the passes over
these rows stand matrix products by BLAS.
"""

import math
from functools import lru_cache

import numpy as np
from numba.np.numpy_support import carray

from fibo_robot.attention.backends.numba.blas import AS_IT_IS, TRANSPOSED, multiply
from fibo_robot.attention.backends.numba.lanes import above, larger, largest, total
from fibo_robot.attention.backends.numba.runner import (
    LANES,
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
    exponential,
    load,
    number,
    peek,
    poke,
    positive_float,
    product,
    scaled,
    shifted,
    store,
    zero_row,
)

ONE = 0x3F800000  # the bits of 1 in float32; those of positive numbers are ordered as they are
ALIGNMENT = 64  # bytes: a row of weights begins with a line of the cache

# `lse`, `passed` and `delta` are `(B, heads, tokens)`; the last is a query's sum of weights by their
# gradients, which is its gradient by its output. `cutoffs` and `found` hold one float32 per head. `block` is
# how many queries of an example are treated together; `product` is BLAS's.
JOB = np.dtype(
    [("claimed", "i8"), ("product", "i8")]
    + [(name, VIEW) for name in ("q", "k", "v", "out", "grad", "grad_q", "grad_k", "grad_v")]
    + [(name, "i8") for name in ("lse", "passed", "delta", "cutoffs", "found")]
    + [(name, "i8") for name in ("batch", "heads", "queries", "tokens", "channels", "block", "width")]
    + [("scale", "f8"), ("mass", "f8")]
)


@inlined
def _products_with_rows(job, left, right, batch, head, first, count, factor, into, wide, item):
    """Writes factor · (rows of `left` from `first` on) · (all rows of `right`)ᵀ into a buffer of weights."""
    multiply(
        job.product, count, job.tokens, job.channels, factor,
        row_at(left, batch, head, first), AS_IT_IS, left.token // item,
        row_at(right, batch, head, 0), TRANSPOSED, right.token // item,
        number(0, wide), into, job.width,
    )  # fmt: skip


@inlined
def _weighted_rows(job, weights, view, result, batch, head, first, count, factor, wide, item):
    """Writes factor · weights · (all rows of `view`) to the rows of `result` from `first` on."""
    multiply(
        job.product, count, job.channels, job.tokens, factor,
        weights, AS_IT_IS, job.width,
        row_at(view, batch, head, 0), AS_IT_IS, view.token // item,
        number(0, wide), row_at(result, batch, head, first), result.token // item,
    )  # fmt: skip


@inlined
def _add_weighted_rows(job, weights, view, result, batch, head, first, count, factor, wide, item):
    """Adds factor · weightsᵀ · (rows of `view` from `first` on) to `result`; at first 0, sets it."""
    multiply(
        job.product, job.tokens, job.channels, count, factor,
        weights, TRANSPOSED, job.width,
        row_at(view, batch, head, first), AS_IT_IS, view.token // item,
        number(0 if first == 0 else 1, wide), row_at(result, batch, head, 0), result.token // item,
    )  # fmt: skip


@inlined
def _end_row(row, job, value, wide, item):
    for column in range(job.tokens, job.width):
        poke(row + column * item, number(value, wide))


@inlined
def _exponentials(row, job, wide, item):
    """Turns a row's logits s into e^(s - m_i), m_i being the largest; returns that and the sum."""
    highest = shifted(wide, number(-np.inf, wide))
    for column in range(0, job.width, LANES):
        highest = larger(highest, load(row + column * item, wide))
    m_i, sums, one = largest(highest), wide, number(1, wide)
    for column in range(0, job.width, LANES):
        powers = exponential(shifted(load(row + column * item, wide), -m_i))
        sums = add_scaled(sums, one, powers)
        store(row + column * item, powers)
    return m_i, total(sums)


@inlined
def _keep_row(row, job, l_i, cutoff, wide, item):
    """Divides a row by its softmax denominator and keeps what is above the cutoff; returns the sum of it."""
    sums, one = wide, number(1, wide)
    inverse = one / l_i
    for column in range(0, job.width, LANES):
        weights = scaled(inverse, load(row + column * item, wide))
        kept = above(weights, cutoff, weights, wide)
        sums = add_scaled(sums, one, kept)
        store(row + column * item, kept)
    return total(sums)


@inlined
def _differentiate_row(row, changes, job, lse, delta, cutoff, wide, item):
    """Turns a row's logits into the weights above the cutoff, and its `changes` into the logits' gradient."""
    for column in range(0, job.width, LANES):
        weights = exponential(shifted(load(row + column * item, wide), -lse))
        kept = above(weights, cutoff, load(changes + column * item, wide), wide)
        store(changes + column * item, product(weights, shifted(kept, -delta)))
        store(row + column * item, above(weights, cutoff, weights, wide))


@inlined
def _aligned(address):
    return (address + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@lru_cache
def forward(dtype: str) -> Kernel:
    """Writes `out`, `lse` and `passed` from `q`, `k`, `v` and `cutoffs`."""
    item, lanes = ITEMSIZE[dtype], LANES

    def body(pointer):
        job, wide, single = carray(pointer, 1)[0], zero_row(dtype, lanes), zero_row("float32", lanes)
        scale, one = number(job.scale, wide), number(1, wide)
        blocks = (job.queries + job.block - 1) // job.block
        buffer = np.empty(job.block * job.width * item + ALIGNMENT, np.uint8)
        weights = _aligned(buffer.ctypes.data)
        while True:
            task = next_task(job)
            if task >= job.batch * job.heads * blocks:
                break
            group, first = task // blocks, task % blocks * job.block
            batch, head, count = group // job.heads, group % job.heads, min(job.block, job.queries - first)
            cutoff = number(peek(job.cutoffs + head * 4, single), wide)
            _products_with_rows(job, job.q, job.k, batch, head, first, count, scale, weights, wide, item)
            for index in range(count):
                row, query = weights + index * job.width * item, group * job.queries + first + index
                _end_row(row, job, -np.inf, wide, item)
                m_i, l_i = _exponentials(row, job, wide, item)
                poke(job.lse + query * item, m_i + number(math.log(l_i), wide))
                poke(job.passed + query * item, _keep_row(row, job, l_i, cutoff, wide, item))
            _weighted_rows(job, weights, job.v, job.out, batch, head, first, count, one, wide, item)
        hold(buffer)

    return compile_kernel(body, JOB)


@lru_cache
def backward(dtype: str) -> Kernel:
    """Writes `grad_q`, `grad_k` and `grad_v` from `grad`, `q`, `k`, `v`, `lse`, `delta` and `cutoffs`."""
    item, lanes = ITEMSIZE[dtype], LANES

    def body(pointer):
        job, wide, single = carray(pointer, 1)[0], zero_row(dtype, lanes), zero_row("float32", lanes)
        scale, one = number(job.scale, wide), number(1, wide)
        size = job.block * job.width * item
        buffer = np.empty(2 * size + ALIGNMENT, np.uint8)
        weights = _aligned(buffer.ctypes.data)
        changes = weights + size
        while True:
            group = next_task(job)
            if group >= job.batch * job.heads:
                break
            batch, head = group // job.heads, group % job.heads
            cutoff = number(peek(job.cutoffs + head * 4, single), wide)
            for first in range(0, job.queries, job.block):
                count = min(job.block, job.queries - first)
                _products_with_rows(job, job.q, job.k, batch, head, first, count, scale, weights, wide, item)
                _products_with_rows(job, job.grad, job.v, batch, head, first, count, one, changes, wide, item)
                for index in range(count):
                    place, query = index * job.width * item, group * job.queries + first + index
                    _end_row(weights + place, job, -np.inf, wide, item)
                    _end_row(changes + place, job, 0, wide, item)
                    lse, delta = peek(job.lse + query * item, wide), peek(job.delta + query * item, wide)
                    _differentiate_row(weights + place, changes + place, job, lse, delta, cutoff, wide, item)
                _weighted_rows(job, changes, job.k, job.grad_q, batch, head, first, count, scale, wide, item)
                _add_weighted_rows(
                    job, changes, job.q, job.grad_k, batch, head, first, count, scale, wide, item
                )
                _add_weighted_rows(
                    job, weights, job.grad, job.grad_v, batch, head, first, count, one, wide, item
                )
        hold(buffer)

    return compile_kernel(body, JOB)


@inlined
def _mass_above(weights, job, threshold, wide, item):
    """The sum of those of a head's weights that are above the threshold."""
    sums, one = wide, number(1, wide)
    rows = job.batch * job.queries
    for place in range(weights, weights + rows * job.width * item, LANES * item):
        row = load(place, wide)
        sums = add_scaled(sums, one, above(row, threshold, row, wide))
    return total(sums)


@lru_cache
def find_threshold(dtype: str) -> Kernel:
    """Writes `found`: the largest weight without which those above it carry less than the share `mass`.

    Found by bisection over all float32 numbers in [0, 1], a fifth of the time that sorting takes. A task is a
    head, with its queries of all examples.
    """
    item, lanes = ITEMSIZE[dtype], LANES

    def body(pointer):
        job, wide = carray(pointer, 1)[0], zero_row(dtype, lanes)
        scale, nothing = number(job.scale, wide), number(-1, wide)
        size = job.queries * job.width * item
        buffer = np.empty(job.batch * size + ALIGNMENT, np.uint8)
        weights = _aligned(buffer.ctypes.data)
        while True:
            head = next_task(job)
            if head >= job.heads:
                break
            for batch in range(job.batch):
                into = weights + batch * size
                _products_with_rows(job, job.q, job.k, batch, head, 0, job.queries, scale, into, wide, item)
                for index in range(job.queries):
                    row = into + index * job.width * item
                    _end_row(row, job, -np.inf, wide, item)
                    _, l_i = _exponentials(row, job, wide, item)
                    _keep_row(row, job, l_i, nothing, wide, item)
            target = number(job.mass, wide) * _mass_above(weights, job, nothing, wide, item)
            low, high = -1, ONE
            while high - low > 1:
                middle = (low + high) // 2
                if _mass_above(weights, job, positive_float(middle), wide, item) >= target:
                    low = middle
                else:
                    high = middle
            poke(job.found + head * 4, positive_float(high))
        hold(buffer)

    return compile_kernel(body, JOB)
