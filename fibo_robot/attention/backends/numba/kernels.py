"""The compiled loops of diagonal attention on the CPU; cpu.py calls them, diagonals.py says how.

Names are those of online softmax: `m_i` a query's largest logit, `l_i` its denominator, `delta` the mean of
its gradient over its weights, grad · out. In zero_logit mode a masked pair weighs e⁰, or `masked` = e^-m_i
beside the others. A query with no masked pair has `masked` 0 and no 0 among its logits: were m_i at least 0
there too, very negative logits would all round to nothing.
"""

import math
from functools import lru_cache

import numpy as np
from numba.np.numpy_support import carray

from fibo_robot.attention.backends.numba.diagonals import (
    AHEAD,
    COLUMNS,
    FIRST,
    JOB,
    LAST,
    LINE,
    PAIR,
    aligned,
    copy_met_rows,
    list_diagonals,
    masked_pairs,
    products_of_run,
    products_with_all,
    tokens_of,
    weighted_sum,
    weighted_sum_of_all,
)
from fibo_robot.attention.backends.numba.lanes import above, between, filled, larger, largest, total
from fibo_robot.attention.backends.numba.runner import (
    LANES,
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
    computing_type,
    exponential,
    fetch,
    load,
    number,
    peek,
    poke,
    product,
    quotient,
    scaled,
    shifted,
    store,
    stored,
    zero_row,
)


@inlined
def _softmax(job, diagonals, count, scores, wide, item):
    """Turns a block's products into the weights of v, before they are divided.

    Returns, for the block's queries, m_i, l_i and the weight of a masked pair.
    """
    zero, one, minus, lowest = number(0, wide), number(1, wide), number(-1, wide), number(-np.inf, wide)
    m_i = filled(lowest, wide)
    for i in range(count):
        place, first, last = scores + diagonals[i, PAIR] * item, diagonals[i, FIRST], diagonals[i, LAST]
        row = between(first, last, scaled(number(job.scale, wide), load(place, wide)), lowest)
        m_i = larger(m_i, row)
        store(place, row)
    m_i = above(m_i, lowest, m_i, wide)
    l_i = masked = wide
    if job.zero_logit:
        hidden = masked_pairs(job, diagonals, count, wide)
        m_i = above(hidden, zero, larger(m_i, wide), m_i)
        masked = above(hidden, zero, exponential(scaled(minus, m_i)), wide)
        l_i = product(hidden, masked)
    for i in range(count):
        place = scores + diagonals[i, PAIR] * item
        powers = exponential(add_scaled(load(place, wide), minus, m_i))
        l_i = add_scaled(l_i, one, powers)
        store(place, add_scaled(powers, minus, masked))
    return m_i, l_i, masked


@inlined
def _attend(job, batch, head, query, last, values, diagonals, scores, room, like, plain, wide, size, item):
    """Writes outputs and log-sum-exps of a block of queries; `room` is for four numbers of each."""
    count = list_diagonals(job, head, query, last, False, diagonals)
    m_i, l_i, masked = _softmax(job, diagonals, count, scores, wide, item)
    largest_at, row = room, LANES * item
    sum_at, masked_at, inverse_at = largest_at + row, largest_at + 2 * row, largest_at + 3 * row
    store(largest_at, m_i)
    store(sum_at, l_i)
    store(masked_at, masked)
    store(inverse_at, above(l_i, number(0, wide), quotient(filled(number(1, wide), wide), l_i), wide))
    lse = job.lse + ((batch * job.heads + head) * job.tokens + query) * item
    for r in range(last - query):
        acc = plain
        if job.zero_logit:
            acc = scaled(peek(masked_at + r * item, wide), load(row_at(job.total, batch, head, 0), plain))
        acc = weighted_sum(acc, scores, r, values, diagonals, count, job.tokens, plain, wide, size, item)
        acc = scaled(peek(inverse_at + r * item, wide), acc)
        fetch(row_at(job.out, batch, head, query + r + AHEAD), like)
        store(row_at(job.out, batch, head, query + r), stored(acc, like))
        lse_i = peek(largest_at + r * item, wide) + math.log(peek(sum_at + r * item, wide))
        poke(lse + r * item, number(lse_i, wide))


@inlined
def _attend_to_all(job, batch, head, query, scores, like, wide, item):
    """Writes the output and the log-sum-exp of a prefix query, which sees every token."""
    q = scaled(number(job.scale, wide), load(row_at(job.q, batch, head, query), like))
    products_with_all(job, q, job.k, batch, head, scores, like, item)
    for i in range(job.tokens, job.width):
        poke(scores + i * item, number(-np.inf, wide))
    highest, sums, one = filled(number(-np.inf, wide), wide), wide, number(1, wide)
    for i in range(0, job.width, LANES):
        highest = larger(highest, load(scores + i * item, wide))
    m_i = largest(highest)
    for i in range(0, job.width, LANES):
        powers = exponential(shifted(load(scores + i * item, wide), -m_i))
        store(scores + i * item, powers)
        sums = add_scaled(sums, one, powers)
    l_i = total(sums)
    acc = weighted_sum_of_all(job, 0, scores, job.v, batch, head, like, wide, item)
    store(row_at(job.out, batch, head, query), scaled(one / l_i, acc))
    lse = job.lse + ((batch * job.heads + head) * job.tokens + query) * item
    poke(lse, number(m_i + math.log(l_i), wide))


@lru_cache
def forward(dtype: str, lanes: int) -> Kernel:
    """Writes `out` and `lse` from `q`, `k`, `v` and in zero_logit mode `total`."""
    computing = computing_type(dtype)
    item, block = ITEMSIZE[computing], LANES
    size = lanes * item

    def body(pointer):
        job = carray(pointer, 1)[0]
        like, plain, wide = zero_row(dtype, lanes), zero_row(computing, lanes), zero_row(computing, block)
        diagonals = np.empty((job.slots + 1, COLUMNS), np.int64)
        scores_size = max(1, job.slots) * job.width * item
        buffer = np.empty(4 * block * item + scores_size + 2 * job.tokens * size + LINE, np.uint8)
        room = aligned(buffer)
        scores = room + 4 * block * item
        queries = scores + scores_size
        rows = queries + job.tokens * size
        while True:
            # Prefix queries see everything and take longest: so their tasks come first.
            task = next_task(job)
            if task >= job.groups * (1 + job.runs):
                break
            if task < job.groups:
                batch, head = task // job.heads, task % job.heads
                for query in range(job.prefix):
                    _attend_to_all(job, batch, head, query, scores, like, wide, item)
                continue
            group = (task - job.groups) // job.runs
            batch, head = group // job.heads, group % job.heads
            first, last = tokens_of(job, (task - job.groups) % job.runs)
            if first == last:
                continue
            products_of_run(
                job, job.q, job.k, batch, head, first, last, queries, rows, diagonals, scores, like, plain,
                size, item,
            )  # fmt: skip
            copy_met_rows(job, job.v, batch, head, first, last, rows, like, plain, size)
            for query in range(first, last, LANES):
                _attend(
                    job, batch, head, query, min(query + LANES, last), rows, diagonals, scores, room, like,
                    plain, wide, size, item,
                )  # fmt: skip
        hold(buffer)

    return compile_kernel(body, JOB)
