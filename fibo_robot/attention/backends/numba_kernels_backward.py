"""The compiled loops of the backward pass of diagonal attention on the CPU; terms as in numba_kernels.py.

A run is walked twice. Over its queries, for `grad_q` and each pair's weight and logit gradient; then over
its keys, which gather those of the same pairs for `grad_k` and `grad_v`. A head that is one run is done in
one task, and its pairs stay in the thread's own memory, and so near its cache. Of a head in several runs,
all queries come before the first key: tasks of keys wait until `finished` counts all runs of the head, and
its pairs lie where all threads see them.

What is kept of a head's pairs are `rows_kept` rows of `width` numbers: `slots` rows of weights and as many
of logit gradients, by patch query; a row of each for every prefix query, by key; and a row of what a masked
pair weighs, by query. Weights are those that multiply v: in zero_logit mode, what a pair has beyond e⁰.
"""

from functools import lru_cache

import numpy as np
from numba.np.numpy_support import carray

from fibo_robot.attention.backends.numba_diagonals import (
    COLUMNS,
    FIRST,
    JOB,
    LAST,
    LINE,
    SLOT,
    START,
    aligned,
    copy_rows,
    list_diagonals,
    masked_pairs,
    products,
    products_with_all,
    tokens_of,
    weighted_sum,
    weighted_sum_of_all,
)
from fibo_robot.attention.backends.numba_lanes import above, between, dot
from fibo_robot.attention.backends.numba_runner import (
    LANES,
    Kernel,
    compile_kernel,
    hold,
    inlined,
    next_task,
    row_at,
)
from fibo_robot.attention.backends.numba_vectors import (
    ITEMSIZE,
    add_scaled,
    computing_type,
    exponential,
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
    job, batch, head, query, last, keys, values, diagonals, kept, weights, d_logits, like, plain, wide, size,
    item,
):  # fmt: skip
    """Writes dq and the pairs of a block of queries."""
    group, zero = batch * job.heads + head, number(0, wide)
    weights_kept, d_logits_kept, _, _, masked_kept = _places(job, kept, item)
    count = list_diagonals(job, head, query, last, False, diagonals)
    products(job, job.q, batch, head, query, last, keys, diagonals, count, weights, like, plain, size, item)
    products(
        job, job.grad, batch, head, query, last, values, diagonals, count, d_logits, like, plain, size, item
    )
    lse_at, delta_at = weights + count * LANES * item, d_logits + count * LANES * item
    store(lse_at, wide)
    store(delta_at, wide)
    for r in range(last - query):
        grad, out = row_at(job.grad, batch, head, query + r), row_at(job.out, batch, head, query + r)
        poke(lse_at + r * item, peek(job.lse + (group * job.tokens + query + r) * item, wide))
        poke(delta_at + r * item, dot(load(grad, like), load(out, like)))
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
        first, end, place = diagonals[i, FIRST], diagonals[i, LAST], i * LANES * item
        powers = exponential(add_scaled(scaled(scale, load(weights + place, wide)), minus, lse))
        powers = between(first, end, powers, zero)
        changes = product(powers, scaled(scale, add_scaled(load(d_logits + place, wide), minus, delta)))
        changes = between(first, end, changes, zero)
        store(d_logits + place, changes)
        pairs = (diagonals[i, SLOT] * job.width + query - job.prefix) * item
        store(weights_kept + pairs, add_scaled(powers, minus, masked))
        store(d_logits_kept + pairs, changes)
    for r in range(last - query):
        acc = weighted_sum(plain, d_logits, r, keys, diagonals, count, job.tokens, plain, wide, size, item)
        store(row_at(job.grad_q, batch, head, query + r), stored(acc, like))
        poke(masked_kept + (query + r) * item, peek(lse_at + r * item, wide))


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
def _key_gradients(
    job, batch, head, key, last, queries, grads, diagonals, kept, unseen, like, plain, wide, size, item
):  # fmt: skip
    """Writes dk and dv of a block of keys; `unseen` is what every dv gets from masked pairs."""
    weights, d_logits, prefix_weights, prefix_d_logits, _ = _places(job, kept, item)
    count = list_diagonals(job, head, key, last, True, diagonals)
    for r in range(last - key):
        acc_k, acc_v = plain, unseen
        for query in range(job.prefix):
            place = (query * job.width + key + r) * item
            d_logit, weight = peek(prefix_d_logits + place, wide), peek(prefix_weights + place, wide)
            acc_k = add_scaled(acc_k, d_logit, load(queries + query * size, plain))
            acc_v = add_scaled(acc_v, weight, load(grads + query * size, plain))
        for i in range(job.prefix, count):
            if diagonals[i, FIRST] <= r and r < diagonals[i, LAST]:
                query = diagonals[i, START] + r
                place = (diagonals[i, SLOT] * job.width + query - job.prefix) * item
                d_logit, weight = peek(d_logits + place, wide), peek(weights + place, wide)
                acc_k = add_scaled(acc_k, d_logit, load(queries + query * size, plain))
                acc_v = add_scaled(acc_v, weight, load(grads + query * size, plain))
        store(row_at(job.grad_k, batch, head, key + r), stored(acc_k, like))
        store(row_at(job.grad_v, batch, head, key + r), stored(acc_v, like))


@inlined
def _prefix_key_gradients(job, batch, head, key, kept, unseen, like, wide, item):
    """Writes dk and dv of a prefix key, which every query sees; `unseen` as in :func:`_key_gradients`."""
    weights, d_logits, prefix_weights, prefix_d_logits, _ = _places(job, kept, item)
    pairs, one = key * job.width * item, number(1, wide)
    acc_k = weighted_sum_of_all(job, job.prefix, d_logits + pairs, job.q, batch, head, like, wide, item)
    acc_v = weighted_sum_of_all(job, job.prefix, weights + pairs, job.grad, batch, head, like, wide, item)
    acc_v = add_scaled(acc_v, one, stored(unseen, like))
    for query in range(job.prefix):
        place = (query * job.width + key) * item
        d_logit, weight = peek(prefix_d_logits + place, wide), peek(prefix_weights + place, wide)
        acc_k = add_scaled(acc_k, d_logit, load(row_at(job.q, batch, head, query), like))
        acc_v = add_scaled(acc_v, weight, load(row_at(job.grad, batch, head, query), like))
    store(row_at(job.grad_k, batch, head, key), acc_k)
    store(row_at(job.grad_v, batch, head, key), acc_v)


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
        block_size, rows_size = (job.slots + 1) * LANES * item, job.tokens * size
        kept_size = job.rows_kept * job.width * item
        own = kept_size if job.runs == 1 else 0
        buffer = np.empty(2 * block_size + 2 * rows_size + own + LINE, np.uint8)
        weights = aligned(buffer)
        d_logits = weights + block_size
        rows = d_logits + block_size
        more_rows = rows + rows_size
        tasks = job.groups * job.runs
        while True:
            task = next_task(job)
            if task >= (tasks if job.runs == 1 else 2 * tasks):
                break
            group, run = task % tasks // job.runs, task % job.runs
            batch, head = group // job.heads, group % job.heads
            first, last = tokens_of(job, run)
            kept, finished = more_rows + rows_size, job.finished + 8 * group
            if job.runs > 1:
                kept = job.pairs + group * kept_size
            if task < tasks:
                if run == 0:
                    for query in range(job.prefix):
                        _prefix_query_gradients(job, batch, head, query, kept, like, wide, item)
                copy_rows(job, job.k, batch, head, first, last, rows, like, plain, size)
                copy_rows(job, job.v, batch, head, first, last, more_rows, like, plain, size)
                for query in range(first, last, LANES):
                    _query_gradients(
                        job, batch, head, query, min(query + LANES, last), rows, more_rows, diagonals, kept,
                        weights, d_logits, like, plain, wide, size, item,
                    )  # fmt: skip
                fetch_add(finished, 1)
            if task >= tasks or job.runs == 1:
                while fetch_add(finished, 0) < job.runs:
                    pass  # those runs were claimed before this one: other threads are at them
                unseen = plain
                if job.zero_logit:
                    masked = _places(job, kept, item)[4]
                    total = weighted_sum_of_all(job, 0, masked, job.grad, batch, head, like, wide, item)
                    unseen = stored(total, plain)
                copy_rows(job, job.q, batch, head, first, last, rows, like, plain, size)
                copy_rows(job, job.grad, batch, head, first, last, more_rows, like, plain, size)
                if run == 0:
                    for key in range(job.prefix):
                        _prefix_key_gradients(job, batch, head, key, kept, unseen, like, wide, item)
                for key in range(first, last, LANES):
                    _key_gradients(
                        job, batch, head, key, min(key + LANES, last), rows, more_rows, diagonals, kept,
                        unseen, like, plain, wide, size, item,
                    )  # fmt: skip
        hold(buffer)

    return compile_kernel(body, JOB)
