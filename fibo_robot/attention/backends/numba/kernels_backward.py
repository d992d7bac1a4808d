"""The compiled loops of the backward pass of diagonal attention on the CPU; terms as in kernels.py.

A run is walked over its queries, for `grad_q` and each pair's weight and logit gradient; then over its keys,
which gather those of the same pairs for `grad_v` and `grad_k`. A head that is one run is done in one task,
and its pairs stay in the thread's own memory, and so near its cache. Of a head in several runs, all queries
come before the first key: tasks of keys wait until `finished` counts all runs of the head, and its pairs lie
where all threads see them.

What is kept of a head's pairs are `rows_kept` rows of `width` numbers: `slots` rows of weights and as many
of logit gradients; a row of each for every prefix query, by key; and a row of what a masked pair weighs, by
query. Weights are those that multiply v: in zero_logit mode, what a pair has beyond e⁰.
"""

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
    START,
    aligned,
    copy_met_rows,
    copy_rows,
    list_diagonals,
    masked_pairs,
    products,
    products_of_run,
    products_with_all,
    tokens_of,
    weighted_sum,
    weighted_sum_of_all,
)
from fibo_robot.attention.backends.numba.lanes import above, between, dot
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
    fetch_add,
    load,
    number,
    peek,
    poke,
    product,
    scaled,
    shifted,
    store,
    stored,
    zero_row,
)


@inlined
def _places(job, kept, item):
    """Addresses in what is kept of a head's pairs.

    Weights and logit gradients of patch queries, the same of prefix queries, and what masked pairs weigh.
    """
    row = job.width * item
    prefix_weights = kept + 2 * job.slots * row
    prefix_d_logits = prefix_weights + job.prefix * row
    return kept, kept + job.slots * row, prefix_weights, prefix_d_logits, prefix_d_logits + job.prefix * row


@inlined
def _query_gradients(
    job, batch, head, query, last, queries, grads, keys, diagonals, kept, room, like, plain, wide, size, item
):  # fmt: skip
    """Writes dq and the pairs of a block of queries; `room` is for two numbers of each.

    Where the logit gradients are to come, there must be grad · v.
    """
    group, zero = batch * job.heads + head, number(0, wide)
    weights, d_logits, _, _, masked_at = _places(job, kept, item)
    count = list_diagonals(job, head, query, last, False, diagonals)
    products(job, queries, query, last, keys, diagonals, count, weights, plain, size, item)
    lse_at, delta_at = room, room + LANES * item
    store(lse_at, wide)
    store(delta_at, wide)
    for r in range(last - query):
        fetch(row_at(job.out, batch, head, query + r + AHEAD), like)
        out = stored(load(row_at(job.out, batch, head, query + r), like), plain)
        poke(lse_at + r * item, peek(job.lse + (group * job.tokens + query + r) * item, wide))
        poke(delta_at + r * item, dot(load(grads + (query + r) * size, plain), out))
    lse, delta, scale, minus = (
        load(lse_at, wide),
        load(delta_at, wide),
        number(job.scale, wide),
        number(-1, wide),
    )
    masked = wide
    if job.zero_logit:
        hidden = masked_pairs(job, diagonals, count, wide)
        masked = above(hidden, zero, exponential(scaled(minus, lse)), wide)
    store(lse_at, masked)
    for i in range(count):
        first, end, place = diagonals[i, FIRST], diagonals[i, LAST], diagonals[i, PAIR] * item
        powers = exponential(add_scaled(scaled(scale, load(weights + place, wide)), minus, lse))
        powers = between(first, end, powers, zero)
        changes = product(powers, scaled(scale, add_scaled(load(d_logits + place, wide), minus, delta)))
        store(weights + place, add_scaled(powers, minus, masked))
        store(d_logits + place, between(first, end, changes, zero))
    for r in range(last - query):
        acc = weighted_sum(plain, d_logits, r, keys, diagonals, count, job.tokens, plain, wide, size, item)
        fetch(row_at(job.grad_q, batch, head, query + r + AHEAD), like)
        store(row_at(job.grad_q, batch, head, query + r), stored(acc, like))
        poke(masked_at + (query + r) * item, peek(lse_at + r * item, wide))


@inlined
def _prefix_query_gradients(job, batch, head, query, kept, like, wide, item):
    """Writes dq and the pairs of a prefix query, which sees every token."""
    scale, group = number(job.scale, wide), batch * job.heads + head
    _, _, prefix_weights, prefix_d_logits, masked = _places(job, kept, item)
    row = query * job.width * item
    weights, d_logits = prefix_weights + row, prefix_d_logits + row
    q, grad = load(row_at(job.q, batch, head, query), like), load(row_at(job.grad, batch, head, query), like)
    products_with_all(job, scaled(scale, q), job.k, batch, head, weights, like, item)
    products_with_all(job, grad, job.v, batch, head, d_logits, like, item)
    delta = dot(grad, load(row_at(job.out, batch, head, query), like))
    lse = peek(job.lse + (group * job.tokens + query) * item, wide)
    for i in range(0, job.width, LANES):
        powers = exponential(shifted(load(weights + i * item, wide), -lse))
        changes = scaled(scale, shifted(load(d_logits + i * item, wide), -delta))
        store(weights + i * item, powers)
        store(d_logits + i * item, product(powers, changes))
    acc = weighted_sum_of_all(job, 0, d_logits, job.k, batch, head, like, wide, item)
    store(row_at(job.grad_q, batch, head, query), acc)
    poke(masked + query * item, number(0, wide))


@inlined
def _gather(
    job, into, view, batch, head, run, rows, diagonals, start, pairs, prefix_pairs, like, plain, wide, size,
    item,
):  # fmt: skip
    """Writes a run's gradients of keys or of values.

    Each is `start` and the rows of a view that its token meets, each row with the number of their pair. The
    rows' copies lie at `rows`.
    """
    first, last = tokens_of(job, run)
    if run == 0:
        for key in range(job.prefix):  # which every query sees
            numbers = pairs + key * job.width * item
            acc = weighted_sum_of_all(job, job.prefix, numbers, view, batch, head, like, wide, item)
            acc = add_scaled(acc, number(1, wide), stored(start, like))
            for query in range(job.prefix):
                weight = peek(prefix_pairs + (query * job.width + key) * item, wide)
                acc = add_scaled(acc, weight, load(row_at(view, batch, head, query), like))
            store(row_at(into, batch, head, key), acc)
    if job.runs > 1:  # else they were copied for the queries
        copy_met_rows(job, view, batch, head, first, last, rows, like, plain, size)
    for token in range(first, last, LANES):
        end = min(token + LANES, last)
        count = list_diagonals(job, head, token, end, True, diagonals)
        for r in range(end - token):
            acc = start
            for query in range(job.prefix):
                weight = peek(prefix_pairs + (query * job.width + token + r) * item, wide)
                acc = add_scaled(acc, weight, load(row_at(view, batch, head, query), like))
            for i in range(job.prefix, count):
                if diagonals[i, FIRST] <= r and r < diagonals[i, LAST]:
                    weight = peek(pairs + (diagonals[i, PAIR] + r) * item, wide)
                    met = rows + (diagonals[i, START] + r) * size
                    acc = add_scaled(acc, weight, load(met, plain))
            fetch(row_at(into, batch, head, token + r + AHEAD), like)
            store(row_at(into, batch, head, token + r), stored(acc, like))


@lru_cache
def backward(dtype: str, lanes: int) -> Kernel:
    """Writes `grad_q`, `grad_k` and `grad_v` from `q`, `k`, `v`, `out`, `lse` and `grad`.

    `finished` has a 0 for each head; where heads have several runs, `pairs` has room for what each keeps.
    """
    computing = computing_type(dtype)
    item, block = ITEMSIZE[computing], LANES
    size = lanes * item

    def body(pointer):
        job = carray(pointer, 1)[0]
        like, plain, wide = zero_row(dtype, lanes), zero_row(computing, lanes), zero_row(computing, block)
        diagonals = np.empty((job.slots + 1, COLUMNS), np.int64)
        rows_size = job.tokens * size
        kept_size = job.rows_kept * job.width * item
        own = kept_size if job.runs == 1 else 0
        buffer = np.empty(2 * block * item + own + 3 * rows_size + LINE, np.uint8)
        room = aligned(buffer)
        queries = room + 2 * block * item + own
        grads = queries + rows_size
        rows = grads + rows_size
        tasks = job.groups * job.runs
        while True:
            task = next_task(job)
            if task >= (tasks if job.runs == 1 else 2 * tasks):
                break
            group, run = task % tasks // job.runs, task % job.runs
            batch, head = group // job.heads, group % job.heads
            kept, finished = room + 2 * block * item, job.finished + 8 * group
            if job.runs > 1:
                kept = job.pairs + group * kept_size
            weights, d_logits, prefix_weights, prefix_d_logits, masked = _places(job, kept, item)
            if task < tasks:
                first, last = tokens_of(job, run)
                if run == 0:
                    for query in range(job.prefix):
                        _prefix_query_gradients(job, batch, head, query, kept, like, wide, item)
                products_of_run(
                    job, job.grad, job.v, batch, head, first, last, grads, rows, diagonals, d_logits, like,
                    plain, size, item,
                )  # fmt: skip
                copy_rows(job, job.q, batch, head, first, last, queries, like, plain, size)
                copy_met_rows(job, job.k, batch, head, first, last, rows, like, plain, size)
                for query in range(first, last, LANES):
                    _query_gradients(
                        job, batch, head, query, min(query + LANES, last), queries, grads, rows, diagonals,
                        kept, room, like, plain, wide, size, item,
                    )  # fmt: skip
                fetch_add(finished, 1)
            if task >= tasks or job.runs == 1:
                while fetch_add(finished, 0) < job.runs:
                    pass  # those runs were claimed before this one: other threads are at them
                unseen = plain  # what each gradient of a value gets from masked pairs
                if job.zero_logit:
                    total = weighted_sum_of_all(job, 0, masked, job.grad, batch, head, like, wide, item)
                    unseen = stored(total, plain)
                _gather(
                    job, job.grad_v, job.grad, batch, head, run, grads, diagonals, unseen, weights,
                    prefix_weights, like, plain, wide, size, item,
                )  # fmt: skip
                _gather(
                    job, job.grad_k, job.q, batch, head, run, queries, diagonals, plain, d_logits,
                    prefix_d_logits, like, plain, wide, size, item,
                )  # fmt: skip
        hold(buffer)

    return compile_kernel(body, JOB)
