"""The compiled passes of Castling's training branch on the CPU; numba_branch.py calls them.

A task is one row of weights: a query's, over all `columns` keys. Rows lie one after the other, `width` apart,
a multiple of LANES; what stands behind the last key is overwritten by -inf, which weighs nothing.
"""

import math
from functools import lru_cache

import numpy as np
from numba.np.numpy_support import carray

from fibo_robot.attention.backends.numba_runner import (
    LANES,
    Kernel,
    compile_kernel,
    inlined,
    next_task,
)
from fibo_robot.attention.backends.numba_vectors import (
    ITEMSIZE,
    above,
    add_scaled,
    exponential,
    larger,
    largest,
    load,
    number,
    peek,
    poke,
    positive_float,
    product,
    scaled,
    shifted,
    store,
    total,
    zero_row,
)

ROWS = 16  # of weights per task
ONE = 0x3F800000  # the bits of 1 in float32; those of positive numbers are ordered as they are

# `weights` and `changes` `(groups, rows, width)`: logits and grad·v, group g being head `head + g`, row r the
# query `first_row + r`. `lse` and `passed` are `(B · heads, tokens)`; `cutoffs` and `found` hold one float32
# per head.
JOB = np.dtype(
    [(name, "i8") for name in ("claimed", "weights", "changes", "lse", "passed", "cutoffs", "found")]
    + [(name, "i8") for name in ("groups", "rows", "columns", "width", "tokens")]
    + [(name, "i8") for name in ("head", "first_group", "first_row")]
    + [("scale", "f8"), ("mass", "f8")]
)


@inlined
def _end_row(row, job, wide, item):
    for column in range(job.columns, job.width):
        poke(row + column * item, number(-np.inf, wide))


@inlined
def _exponentials(row, job, scale, wide, item):
    """Turns a row's logits s into e^(scale · s - m_i), m_i being the largest; returns that and the sum."""
    highest = shifted(wide, number(-np.inf, wide))
    for column in range(0, job.width, LANES):
        highest = larger(highest, load(row + column * item, wide))
    m_i, sums, one = scale * largest(highest), wide, number(1, wide)
    for column in range(0, job.width, LANES):
        logits = scaled(scale, load(row + column * item, wide))
        powers = exponential(shifted(logits, -m_i))
        sums = add_scaled(sums, one, powers)
        store(row + column * item, powers)
    return m_i, total(sums)


@inlined
def _keep_row(row, job, l_i, cutoff, wide, item):
    """Divides a row by its softmax denominator and keeps what is above the cutoff; returns the sum of it."""
    sums, one = wide, number(1, wide)
    for column in range(0, job.width, LANES):
        weights = scaled(one / l_i, load(row + column * item, wide))
        kept = above(weights, cutoff, weights)
        sums = add_scaled(sums, one, kept)
        store(row + column * item, kept)
    return total(sums)


@inlined
def _differentiate_row(row, changes, job, scale, lse, cutoff, wide, item):
    """Turns a row's logits into the weights above the cutoff, and its `changes` into the logits' gradient."""
    sums, one = wide, number(1, wide)
    for column in range(0, job.width, LANES):
        weights = exponential(shifted(scaled(scale, load(row + column * item, wide)), -lse))
        kept = above(weights, cutoff, load(changes + column * item, wide))
        sums = add_scaled(sums, one, product(weights, kept))
        store(row + column * item, weights)
        store(changes + column * item, kept)
    delta = total(sums)
    for column in range(0, job.width, LANES):
        weights = load(row + column * item, wide)
        change = scaled(scale, shifted(load(changes + column * item, wide), -delta))
        store(changes + column * item, product(weights, change))
        store(row + column * item, above(weights, cutoff, weights))


@inlined
def _row_of(job, index, item):
    """A row's head, its place in a buffer, and its query's among those of all heads."""
    head = job.head + index // job.rows
    query = (job.first_group + head) * job.tokens + job.first_row + index % job.rows
    return head, index * job.width * item, query


@inlined
def _tasks(job):
    return (job.groups * job.rows + ROWS - 1) // ROWS


@lru_cache
def keep_strongest(dtype: str) -> Kernel:
    """Turns logits in `weights` into those weights that pass; writes `lse` and `passed`."""
    item, lanes = ITEMSIZE[dtype], LANES

    def body(pointer):
        job, wide, single = carray(pointer, 1)[0], zero_row(dtype, lanes), zero_row("float32", lanes)
        scale = number(job.scale, wide)
        while True:
            task = next_task(job)
            if task >= _tasks(job):
                break
            for index in range(task * ROWS, min((task + 1) * ROWS, job.groups * job.rows)):
                head, place, query = _row_of(job, index, item)
                row = job.weights + place
                _end_row(row, job, wide, item)
                m_i, l_i = _exponentials(row, job, scale, wide, item)
                cutoff = number(peek(job.cutoffs + head * 4, single), wide)
                poke(job.lse + query * item, m_i + number(math.log(l_i), wide))
                poke(job.passed + query * item, _keep_row(row, job, l_i, cutoff, wide, item))

    return compile_kernel(body, JOB)


@lru_cache
def differentiate(dtype: str) -> Kernel:
    """Turns `weights` into those that pass, and `changes` into the gradient of q·k; reads `lse`."""
    item, lanes = ITEMSIZE[dtype], LANES

    def body(pointer):
        job, wide, single = carray(pointer, 1)[0], zero_row(dtype, lanes), zero_row("float32", lanes)
        scale = number(job.scale, wide)
        while True:
            task = next_task(job)
            if task >= _tasks(job):
                break
            for index in range(task * ROWS, min((task + 1) * ROWS, job.groups * job.rows)):
                head, place, query = _row_of(job, index, item)
                row, changes = job.weights + place, job.changes + place
                _end_row(row, job, wide, item)
                for column in range(job.columns, job.width):
                    poke(changes + column * item, number(0, wide))
                lse = peek(job.lse + query * item, wide)
                cutoff = number(peek(job.cutoffs + head * 4, single), wide)
                _differentiate_row(row, changes, job, scale, lse, cutoff, wide, item)

    return compile_kernel(body, JOB)


@inlined
def _mass_above(weights, job, threshold, wide, item):
    """The sum of a head's weights above the threshold."""
    sums, one = wide, number(1, wide)
    for place in range(weights, weights + job.rows * job.width * item, LANES * item):
        row = load(place, wide)
        sums = add_scaled(sums, one, above(row, threshold, row))
    return total(sums)


@lru_cache
def find_threshold(dtype: str) -> Kernel:
    """Writes `found`: the largest weight without which those above it carry less than the share `mass`.

    Found by bisection over all float32 numbers in [0, 1], a fifth of the time that sorting takes. A task is a
    head.
    """
    item, lanes = ITEMSIZE[dtype], LANES

    def body(pointer):
        job, wide = carray(pointer, 1)[0], zero_row(dtype, lanes)
        scale, nothing = number(job.scale, wide), number(-1, wide)
        while True:
            head = next_task(job)
            if head >= job.groups:
                break
            weights = job.weights + head * job.rows * job.width * item
            for index in range(job.rows):
                row = weights + index * job.width * item
                _end_row(row, job, wide, item)
                _, l_i = _exponentials(row, job, scale, wide, item)
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

    return compile_kernel(body, JOB)
