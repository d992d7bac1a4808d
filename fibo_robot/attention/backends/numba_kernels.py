"""The compiled loops of diagonal attention on the CPU; numba_cpu.py calls them.

What all kernels share:
- A task is a tile of patch tokens of one head of one example, or that head's prefix tokens. Prefix tokens see
  everything and take longest, so their tasks come first.
- A query's keys are listed, their logits written to a buffer, the buffer goes through the softmax as a
  whole, and the weighted sum of values stays in registers until it is complete.
- Slot p < prefix stands for prefix key p; an offset o has two more, for the shifts +o (the key stands o
  before its query) and -o.
- Names are those of online softmax: `m_i` a query's largest logit, `l_i` its denominator, `acc` its sum of
  weighted values, `delta` the mean of its gradient over its weights, grad · out.
- In zero_logit mode a masked pair weighs e⁰, or `masked` = e^-m_i beside the others. A query with no masked
  pair has `masked` 0 and no 0 among its logits: were m_i at least 0 there too, very negative logits would all
  round to nothing.
"""

import math
from functools import lru_cache

import numpy as np
from numba.np.numpy_support import carray

from fibo_robot.attention.backends.numba_runner import (
    LANES,
    VIEW,
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
    dot,
    exponential,
    integer_at,
    larger,
    largest,
    load,
    number,
    peek,
    poke,
    scaled,
    shifted,
    store,
    total,
    zero_row,
)

TILE = 64  # tokens per task
QUERIES = 16  # that are computed together

# Addresses and sizes. `lse` and `masked` are `(B, heads, N)` in the computing dtype, `total` is
# `(B, heads, D)`: the sum of v, or in the backward pass what every row of v gets from masked pairs. `weights`
# and `d_logits` `(B, heads, slots, N)` belong to the pairs of patch queries, `prefix_weights` and
# `prefix_d_logits` `(B, heads, prefix, N)` to those of prefix queries; their rows are padded to `width`.
# Weights are those that multiply v: in zero_logit mode, what a pair has beyond e⁰. Head h owns
# `offsets[starts[h]:starts[h + 1]]`.
JOB = np.dtype(
    [
        ("claimed", "i8"),
        *((name, VIEW) for name in ("q", "k", "v", "out", "grad", "grad_q", "grad_k", "grad_v")),
    ]
    + [("total", VIEW)]
    + [(name, "i8") for name in ("lse", "masked", "offsets", "starts")]
    + [(name, "i8") for name in ("weights", "d_logits", "prefix_weights", "prefix_d_logits")]
    + [(name, "i8") for name in ("groups", "heads", "tokens", "prefix", "slots", "width", "zero_logit")]
    + [("scale", "f8")]
)


@inlined
def task_at(job, task):
    """Example, head, and tokens [first, last) of a task; prefix tokens are those before `prefix`."""
    tiles = (job.tokens - job.prefix + TILE - 1) // TILE
    if task < job.groups:
        return task // job.heads, task % job.heads, 0, job.prefix
    group, tile = (task - job.groups) // tiles, (task - job.groups) % tiles
    first = job.prefix + tile * TILE
    return group // job.heads, group % job.heads, first, min(first + TILE, job.tokens)


@inlined
def number_of_tasks(job):
    """Of one call."""
    return job.groups * (1 + (job.tokens - job.prefix + TILE - 1) // TILE)


@inlined
def list_keys(job, head, query, keys, slots, at):
    """Writes a query's keys and their slots, from entry `at` on; returns how many they are."""
    if query < job.prefix:
        for key in range(job.tokens):
            keys[at + key] = key
        return job.tokens
    last = at + job.prefix
    for key in range(job.prefix):
        keys[at + key], slots[at + key] = key, key
    begin, slot = integer_at(job.starts, head), job.prefix
    for i in range(begin, integer_at(job.starts, head + 1)):
        offset = integer_at(job.offsets, i)
        if query - offset >= job.prefix:
            keys[last], slots[last] = query - offset, slot
            last += 1
        if offset > 0 and query + offset < job.tokens:
            keys[last], slots[last] = query + offset, slot + 1
            last += 1
        slot += 2
    return last - at


@inlined
def _softmax(weights, count, m_i, wide, item):
    """Turns logits in a buffer into e^(logit - m_i); returns m_i, at least the one given, and the sum."""
    padded = (count + LANES - 1) // LANES * LANES
    for i in range(count, padded):
        poke(weights + i * item, number(-np.inf, wide))
    highest = shifted(wide, m_i)
    for i in range(0, padded, LANES):
        highest = larger(highest, load(weights + i * item, wide))
    m_i, sums, one = largest(highest), wide, number(1, wide)
    for i in range(0, padded, LANES):
        place = weights + i * item
        powers = exponential(shifted(load(place, wide), -m_i))
        store(place, powers)
        sums = add_scaled(sums, one, powers)
    return m_i, total(sums)


@inlined
def _attend(job, batch, head, first, last, stride, keys, slots, counts, weights, like, plain, wide, item):
    """Writes the outputs and the log-sum-exps of a few queries, each with `stride` places in the buffers.

    What is done to one query waits for itself: so each step is done to all of them before the next.
    """
    for query in range(first, last):
        at = (query - first) * stride
        counts[query - first] = count = list_keys(job, head, query, keys, slots, at)
        q = scaled(number(job.scale, wide), load(row_at(job.q, batch, head, query), like))
        for i in range(at, at + count):
            poke(weights + i * item, dot(q, load(row_at(job.k, batch, head, keys[i]), like)))
    highest = weights + (last - first) * stride * item
    sums = highest + (last - first) * item
    for r in range(last - first):
        hidden = job.tokens - counts[r] if job.zero_logit else 0
        start = number(0 if hidden > 0 else -np.inf, wide)
        m_i, l_i = _softmax(weights + r * stride * item, counts[r], start, wide, item)
        poke(highest + r * item, m_i)
        poke(sums + r * item, l_i)
    for query in range(first, last):
        r, at = query - first, (query - first) * stride
        hidden = job.tokens - counts[r] if job.zero_logit else 0
        m_i, l_i = peek(highest + r * item, wide), peek(sums + r * item, wide)
        acc, masked = like, number(0, wide)
        if hidden > 0:
            masked = exponential(-m_i)
            l_i += number(hidden, wide) * masked
            acc = add_scaled(acc, masked, load(row_at(job.total, batch, head, 0), plain))
        for i in range(at, at + counts[r]):
            weight = peek(weights + i * item, wide) - masked
            acc = add_scaled(acc, weight, load(row_at(job.v, batch, head, keys[i]), like))
        nothing = counts[r] + hidden == 0
        inverse = number(0 if nothing else 1, wide) / (number(1, wide) if nothing else l_i)
        store(row_at(job.out, batch, head, query), scaled(inverse, acc))
        lse = number(-np.inf if nothing else m_i + math.log(l_i), wide)
        poke(job.lse + ((batch * job.heads + head) * job.tokens + query) * item, lse)


@inlined
def together(job, query, last):
    """How many queries from this one on are computed together, and the places of each in the buffers."""
    if query < job.prefix:
        return 1, job.width
    return min(QUERIES, last - query), (job.slots + LANES - 1) // LANES * LANES


@inlined
def places(job):
    return max(job.width, QUERIES * ((job.slots + LANES - 1) // LANES * LANES))


@lru_cache
def forward(dtype: str, lanes: int) -> Kernel:
    """Writes `out` and `lse` from `q`, `k`, `v` and in zero_logit mode `total`."""
    computing = computing_type(dtype)
    item, block = ITEMSIZE[computing], LANES

    def body(pointer):
        job = carray(pointer, 1)[0]
        like, plain, wide = zero_row(dtype, lanes), zero_row(computing, lanes), zero_row(computing, block)
        keys, slots = np.empty(places(job), np.int64), np.empty(places(job), np.int64)
        counts = np.empty(QUERIES, np.int64)
        buffer = np.empty((places(job) + 2 * QUERIES) * item, np.uint8)
        weights = buffer.ctypes.data
        while True:
            task = next_task(job)
            if task >= number_of_tasks(job):
                break
            batch, head, query, last = task_at(job, task)
            while query < last:
                count, stride = together(job, query, last)
                _attend(
                    job, batch, head, query, query + count, stride, keys, slots, counts, weights, like, plain,
                    wide, item,
                )  # fmt: skip
                query += count
        hold(buffer)

    return compile_kernel(body, JOB)
