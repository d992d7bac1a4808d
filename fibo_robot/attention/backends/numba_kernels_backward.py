"""The compiled loops of the backward pass of diagonal attention on the CPU; terms as in numba_kernels.py."""

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
    number_of_tasks,
    products,
    products_with_all,
    task_at,
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
def _query_gradients(
    job, batch, head, query, last, keys, values, diagonals, weights, d_logits, like, plain, wide, size, item
):  # fmt: skip
    """Writes dq and the pairs of a block of queries."""
    group, zero = batch * job.heads + head, number(0, wide)
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
        pairs = ((group * job.slots + diagonals[i, SLOT]) * job.width + query - job.prefix) * item
        store(job.weights + pairs, add_scaled(powers, minus, masked))
        store(job.d_logits + pairs, changes)
    for r in range(last - query):
        acc = weighted_sum(plain, d_logits, r, keys, diagonals, count, job.tokens, plain, wide, size, item)
        store(row_at(job.grad_q, batch, head, query + r), stored(acc, like))
        poke(job.masked + (group * job.tokens + query + r) * item, peek(lse_at + r * item, wide))


@inlined
def _prefix_query_gradients(job, batch, head, query, like, wide, item):
    """Writes dq and the pairs of a prefix query, which sees every token."""
    scale, group = number(job.scale, wide), batch * job.heads + head
    row = (group * job.prefix + query) * job.width * item
    weights, d_logits = job.prefix_weights + row, job.prefix_d_logits + row
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
    poke(job.masked + (group * job.tokens + query) * item, number(0, wide))


@lru_cache
def backward_queries(dtype: str, lanes: int) -> Kernel:
    """First phase: walks over queries and writes the pairs, `masked` and `grad_q`."""
    computing = computing_type(dtype)
    item, block = ITEMSIZE[computing], LANES
    size = lanes * item

    def body(pointer):
        job = carray(pointer, 1)[0]
        like, plain, wide = zero_row(dtype, lanes), zero_row(computing, lanes), zero_row(computing, block)
        diagonals = np.empty((job.slots + 1, COLUMNS), np.int64)
        pairs_size = (job.slots + 1) * LANES * item
        buffer = np.empty(2 * pairs_size + 2 * job.tokens * size + LINE, np.uint8)
        weights = aligned(buffer)
        d_logits = weights + pairs_size
        keys = d_logits + pairs_size
        values = keys + job.tokens * size
        while True:
            task = next_task(job)
            if task >= number_of_tasks(job):
                break
            batch, head, first, last = task_at(job, task)
            if first < job.prefix:
                for query in range(first, last):
                    _prefix_query_gradients(job, batch, head, query, like, wide, item)
            elif first < last:
                copy_rows(job, job.k, batch, head, first, last, keys, like, plain, size)
                copy_rows(job, job.v, batch, head, first, last, values, like, plain, size)
                for query in range(first, last, LANES):
                    _query_gradients(
                        job, batch, head, query, min(query + LANES, last), keys, values, diagonals, weights,
                        d_logits, like, plain, wide, size, item,
                    )  # fmt: skip
        hold(buffer)

    return compile_kernel(body, JOB)


@inlined
def _key_gradients(job, batch, head, key, last, queries, grads, diagonals, like, plain, wide, size, item):
    """Writes dk and dv of a block of keys."""
    group = batch * job.heads + head
    count = list_diagonals(job, head, key, last, True, diagonals)
    for r in range(last - key):
        acc_k = acc_v = plain
        if job.zero_logit:
            acc_v = load(row_at(job.total, batch, head, 0), plain)
        for query in range(job.prefix):
            place = ((group * job.prefix + query) * job.width + key + r) * item
            d_logit, weight = peek(job.prefix_d_logits + place, wide), peek(job.prefix_weights + place, wide)
            acc_k = add_scaled(acc_k, d_logit, load(queries + query * size, plain))
            acc_v = add_scaled(acc_v, weight, load(grads + query * size, plain))
        for i in range(job.prefix, count):
            if diagonals[i, FIRST] <= r and r < diagonals[i, LAST]:
                query = diagonals[i, START] + r
                place = ((group * job.slots + diagonals[i, SLOT]) * job.width + query - job.prefix) * item
                d_logit, weight = peek(job.d_logits + place, wide), peek(job.weights + place, wide)
                acc_k = add_scaled(acc_k, d_logit, load(queries + query * size, plain))
                acc_v = add_scaled(acc_v, weight, load(grads + query * size, plain))
        store(row_at(job.grad_k, batch, head, key + r), stored(acc_k, like))
        store(row_at(job.grad_v, batch, head, key + r), stored(acc_v, like))


@inlined
def _prefix_key_gradients(job, batch, head, key, like, plain, wide, item):
    """Writes dk and dv of a prefix key, which every query sees."""
    group, one = batch * job.heads + head, number(1, wide)
    pairs = (group * job.slots + key) * job.width * item
    acc_k = weighted_sum_of_all(job, job.prefix, job.d_logits + pairs, job.q, batch, head, like, wide, item)
    acc_v = weighted_sum_of_all(job, job.prefix, job.weights + pairs, job.grad, batch, head, like, wide, item)
    if job.zero_logit:
        acc_v = add_scaled(acc_v, one, stored(load(row_at(job.total, batch, head, 0), plain), like))
    for query in range(job.prefix):
        place = ((group * job.prefix + query) * job.width + key) * item
        d_logit, weight = peek(job.prefix_d_logits + place, wide), peek(job.prefix_weights + place, wide)
        acc_k = add_scaled(acc_k, d_logit, load(row_at(job.q, batch, head, query), like))
        acc_v = add_scaled(acc_v, weight, load(row_at(job.grad, batch, head, query), like))
    store(row_at(job.grad_k, batch, head, key), acc_k)
    store(row_at(job.grad_v, batch, head, key), acc_v)


@lru_cache
def backward_keys(dtype: str, lanes: int) -> Kernel:
    """Second phase: walks over keys and gathers `grad_k`, `grad_v` from what the first phase stored."""
    computing = computing_type(dtype)
    item, block = ITEMSIZE[computing], LANES
    size = lanes * item

    def body(pointer):
        job = carray(pointer, 1)[0]
        like, plain, wide = zero_row(dtype, lanes), zero_row(computing, lanes), zero_row(computing, block)
        diagonals = np.empty((job.slots + 1, COLUMNS), np.int64)
        buffer = np.empty(2 * job.tokens * size + LINE, np.uint8)
        queries = aligned(buffer)
        grads = queries + job.tokens * size
        while True:
            task = next_task(job)
            if task >= number_of_tasks(job):
                break
            batch, head, first, last = task_at(job, task)
            if first < job.prefix:
                for key in range(first, last):
                    _prefix_key_gradients(job, batch, head, key, like, plain, wide, item)
            elif first < last:
                copy_rows(job, job.q, batch, head, first, last, queries, like, plain, size)
                copy_rows(job, job.grad, batch, head, first, last, grads, like, plain, size)
                for key in range(first, last, LANES):
                    _key_gradients(
                        job, batch, head, key, min(key + LANES, last), queries, grads, diagonals, like, plain,
                        wide, size, item,
                    )  # fmt: skip
        hold(buffer)

    return compile_kernel(body, JOB)
