"""The compiled loops of the backward pass of diagonal attention on the CPU; terms as in numba_kernels.py."""

from functools import lru_cache

import numpy as np
from numba.np.numpy_support import carray

from fibo_robot.attention.backends.numba_kernels import (
    JOB,
    QUERIES,
    list_keys,
    number_of_tasks,
    places,
    task_at,
    together,
)
from fibo_robot.attention.backends.numba_runner import (
    LANES,
    Kernel,
    compile_kernel,
    inlined,
    next_task,
    row_at,
)
from fibo_robot.attention.backends.numba_vectors import (
    ITEMSIZE,
    add_scaled,
    computing_type,
    dot,
    exponential,
    integer_at,
    load,
    number,
    peek,
    poke,
    product,
    scaled,
    shifted,
    store,
    zero_row,
)


@inlined
def _query_gradients(
    job, batch, head, first, last, stride, keys, slots, counts, weights, d_logits, like, wide, item
):  # fmt: skip
    """Writes dq and the pairs of a few queries; for a prefix query, the buffers are the pairs' own rows."""
    scale, group = number(job.scale, wide), batch * job.heads + head
    for query in range(first, last):
        at = (query - first) * stride
        counts[query - first] = count = list_keys(job, head, query, keys, slots, at)
        q = scaled(scale, load(row_at(job.q, batch, head, query), like))
        grad = load(row_at(job.grad, batch, head, query), like)
        for i in range(at, at + count):
            poke(weights + i * item, dot(q, load(row_at(job.k, batch, head, keys[i]), like)))
            poke(d_logits + i * item, dot(grad, load(row_at(job.v, batch, head, keys[i]), like)))
    for query in range(first, last):
        grad = load(row_at(job.grad, batch, head, query), like)
        delta = dot(grad, load(row_at(job.out, batch, head, query), like))
        lse = peek(job.lse + (group * job.tokens + query) * item, wide)
        at = (query - first) * stride
        for i in range(at, at + counts[query - first], LANES):
            powers = exponential(shifted(load(weights + i * item, wide), -lse))
            changes = scaled(scale, shifted(load(d_logits + i * item, wide), -delta))
            store(weights + i * item, powers)
            store(d_logits + i * item, product(powers, changes))
    for query in range(first, last):
        begin = (query - first) * stride
        end = begin + counts[query - first]
        acc = like
        for i in range(begin, end):
            d_logit = peek(d_logits + i * item, wide)
            acc = add_scaled(acc, d_logit, load(row_at(job.k, batch, head, keys[i]), like))
        store(row_at(job.grad_q, batch, head, query), acc)
        masked, place = number(0, wide), group * job.tokens + query
        if query >= job.prefix:
            if job.zero_logit and end - begin < job.tokens:
                masked = exponential(-peek(job.lse + place * item, wide))
            for i in range(begin, end):
                pair = ((group * job.slots + slots[i]) * job.width + query) * item
                poke(job.weights + pair, peek(weights + i * item, wide) - masked)
                poke(job.d_logits + pair, peek(d_logits + i * item, wide))
        poke(job.masked + place * item, masked)


@lru_cache
def backward_queries(dtype: str, lanes: int) -> Kernel:
    """First phase: walks over queries and writes the pairs, `masked` and `grad_q`."""
    computing = computing_type(dtype)
    item, block = ITEMSIZE[computing], LANES

    def body(pointer):
        job = carray(pointer, 1)[0]
        like, wide = zero_row(dtype, lanes), zero_row(computing, block)
        keys, slots = np.empty(places(job), np.int64), np.empty(places(job), np.int64)
        counts = np.empty(QUERIES, np.int64)
        buffer = np.empty(2 * places(job) * item, np.uint8)
        while True:
            task = next_task(job)
            if task >= number_of_tasks(job):
                break
            batch, head, query, last = task_at(job, task)
            while query < last:
                count, stride = together(job, query, last)
                weights, d_logits = buffer.ctypes.data, buffer.ctypes.data + places(job) * item
                if query < job.prefix:
                    place = ((batch * job.heads + head) * job.prefix + query) * job.width * item
                    weights, d_logits = job.prefix_weights + place, job.prefix_d_logits + place
                _query_gradients(
                    job, batch, head, query, query + count, stride, keys, slots, counts, weights, d_logits,
                    like, wide, item,
                )  # fmt: skip
                query += count

    return compile_kernel(body, JOB)


@inlined
def _add_pair(job, batch, head, query, weights, d_logits, place, acc_k, acc_v, like, wide):
    """What a key and its value get from one query, whose pair lies at this place."""
    acc_k = add_scaled(acc_k, peek(d_logits + place, wide), load(row_at(job.q, batch, head, query), like))
    acc_v = add_scaled(acc_v, peek(weights + place, wide), load(row_at(job.grad, batch, head, query), like))
    return acc_k, acc_v


@inlined
def _key_gradient(job, batch, head, key, like, plain, wide, item):
    """Writes dk and dv of one key."""
    group = batch * job.heads + head
    acc_k, acc_v = like, like
    if job.zero_logit:
        acc_v = add_scaled(acc_v, number(1, wide), load(row_at(job.total, batch, head, 0), plain))
    for query in range(job.prefix):
        place = ((group * job.prefix + query) * job.width + key) * item
        acc_k, acc_v = _add_pair(
            job, batch, head, query, job.prefix_weights, job.prefix_d_logits, place, acc_k, acc_v, like, wide
        )  # fmt: skip
    if key < job.prefix:
        for query in range(job.prefix, job.tokens):
            place = ((group * job.slots + key) * job.width + query) * item
            acc_k, acc_v = _add_pair(
                job, batch, head, query, job.weights, job.d_logits, place, acc_k, acc_v, like, wide
            )  # fmt: skip
    else:
        begin, slot = integer_at(job.starts, head), group * job.slots + job.prefix
        for i in range(begin, integer_at(job.starts, head + 1)):
            offset = integer_at(job.offsets, i)
            for side in range(2):
                query = key + offset if side == 0 else key - offset
                if query >= job.prefix and query < job.tokens and (side == 0 or offset > 0):
                    place = ((slot + side) * job.width + query) * item
                    acc_k, acc_v = _add_pair(
                        job, batch, head, query, job.weights, job.d_logits, place, acc_k, acc_v, like, wide
                    )  # fmt: skip
            slot += 2
    store(row_at(job.grad_k, batch, head, key), acc_k)
    store(row_at(job.grad_v, batch, head, key), acc_v)


@lru_cache
def backward_keys(dtype: str, lanes: int) -> Kernel:
    """Second phase: walks over keys and gathers `grad_k`, `grad_v` from what the first phase stored."""
    computing = computing_type(dtype)
    item, block = ITEMSIZE[computing], LANES

    def body(pointer):
        job = carray(pointer, 1)[0]
        like, plain, wide = zero_row(dtype, lanes), zero_row(computing, lanes), zero_row(computing, block)
        while True:
            task = next_task(job)
            if task >= number_of_tasks(job):
                break
            batch, head, first, last = task_at(job, task)
            for key in range(first, last):
                _key_gradient(job, batch, head, key, like, plain, wide, item)

    return compile_kernel(body, JOB)
