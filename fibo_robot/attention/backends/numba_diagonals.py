"""What the compiled loops of diagonal attention share, forward and backward: how queries meet their keys.

- A run is a part of the patch tokens of one head of one example: all of them, where there are heads enough
  to keep every thread at work.
- LANES neighbouring patch tokens are a block. On one diagonal they meet as many neighbours, so a block's
  products lie side by side in registers, a row for each diagonal, and its softmax needs no sum across lanes.
- The rows that a run meets are copied first, to where they lie side by side: as views of a projection they
  are apart by a multiple of a page or nearly, and would share a few lines of the cache.
- A diagonal is a row of `diagonals`, below. A prefix token has one too, on which nothing moves.
- Slot p < prefix belongs to prefix key p; an offset o has two more, for the shifts -o and +o to its key.
"""

import numpy as np

from fibo_robot.attention.backends.numba_lanes import between, dots, filled
from fibo_robot.attention.backends.numba_runner import LANES, VIEW, inlined, row_at
from fibo_robot.attention.backends.numba_vectors import (
    add_scaled,
    fetch,
    integer_at,
    load,
    number,
    peek,
    store,
    stored,
)

# Addresses and sizes. `lse` is `(B, heads, N)` in the computing dtype, `total` is `(B, heads, D)`: the sum of
# v. `pairs` and `finished` are for the backward pass (numba_kernels_backward.py). Head h owns
# `offsets[starts[h]:starts[h + 1]]`. A head's patch tokens are walked in `runs` parts. `width` is N, padded.
JOB = np.dtype(
    [
        ("claimed", "i8"),
        *((name, VIEW) for name in ("q", "k", "v", "out", "grad", "grad_q", "grad_k", "grad_v")),
    ]
    + [("total", VIEW)]
    + [(name, "i8") for name in ("lse", "pairs", "finished", "offsets", "starts")]
    + [(name, "i8") for name in ("groups", "heads", "tokens", "prefix", "slots", "width", "rows_kept")]
    + [("runs", "i8"), ("zero_logit", "i8"), ("scale", "f8")]
)
# Of a diagonal: which token the block's first one meets and how far the next one's is from it, which of the
# block's tokens meet any, from FIRST to before LAST, and the slot of these pairs.
START, STEP, FIRST, LAST, SLOT = range(5)
COLUMNS = 5
AHEAD = 8  # rows that are on their way while one is copied
LINE = 64  # bytes of a line of the cache


@inlined
def aligned(buffer):
    """The first address in a buffer at which a line of the cache begins; it needs LINE bytes to spare."""
    return (buffer.ctypes.data + LINE - 1) // LINE * LINE


@inlined
def tokens_of(job, run):
    """Patch tokens [first, last) of a run."""
    blocks = (job.tokens - job.prefix + LANES - 1) // LANES
    first = job.prefix + blocks * run // job.runs * LANES
    last = job.prefix + blocks * (run + 1) // job.runs * LANES
    return first, min(last, job.tokens)


@inlined
def _list(diagonals, i, start, step, first, last, slot):
    """Writes one diagonal."""
    diagonals[i, START], diagonals[i, STEP] = start, step
    diagonals[i, FIRST], diagonals[i, LAST], diagonals[i, SLOT] = first, last, slot


@inlined
def list_diagonals(job, head, token, last, backward, diagonals):
    """Lists the diagonals that meet tokens from this one to before `last`; returns how many they are.

    From queries to keys, or `backward` from keys to the queries of the same pairs.
    """
    size = last - token
    for p in range(job.prefix):
        _list(diagonals, p, p, 0, 0, size, p)
    count, slot = job.prefix, job.prefix
    for i in range(integer_at(job.starts, head), integer_at(job.starts, head + 1)):
        offset = integer_at(job.offsets, i)
        other = 1 if backward and offset > 0 else 0
        first = max(0, job.prefix + offset - token)
        if first < size:
            _list(diagonals, count, token - offset, 1, first, size, slot + other)
            count += 1
        if offset > 0 and token + offset < job.tokens:
            met = min(size, job.tokens - offset - token)
            _list(diagonals, count, token + offset, 1, 0, met, slot + 1 - other)
            count += 1
        slot += 2
    return count


@inlined
def copy_rows(job, view, batch, head, first, last, place, like, plain, size):
    """Copies the prefix tokens' rows, and all that tokens from `first` to before `last` meet, to a place.

    A token's row comes to lie at `place + token * size`, in the computing dtype.
    """
    for token in range(job.prefix):
        store(place + token * size, stored(load(row_at(view, batch, head, token), like), plain))
    end = integer_at(job.starts, head + 1)
    if end == integer_at(job.starts, head):
        return
    reach = integer_at(job.offsets, end - 1)
    for token in range(max(job.prefix, first - reach), min(job.tokens, last + reach)):
        fetch(row_at(view, batch, head, token + AHEAD), like)
        store(place + token * size, stored(load(row_at(view, batch, head, token), like), plain))


@inlined
def _met(rows, size, diagonals, i, r, tokens):
    """Address of the row that token r of a block meets on a diagonal; of any, if it meets none."""
    token = diagonals[i, START] + r * diagonals[i, STEP]
    return rows + min(max(token, 0), tokens - 1) * size


@inlined
def products(job, view, batch, head, token, last, rows, diagonals, count, sums, like, plain, size, item):
    """Writes the products of a block's rows of a view with the rows they meet, LANES for each diagonal."""
    final, tokens = last - 1, job.tokens
    for r in range(0, last - token, 4):
        row0 = load(row_at(view, batch, head, token + r), like)
        row1 = load(row_at(view, batch, head, min(token + r + 1, final)), like)
        row2 = load(row_at(view, batch, head, min(token + r + 2, final)), like)
        row3 = load(row_at(view, batch, head, min(token + r + 3, final)), like)
        for i in range(count):
            four = dots(
                row0, load(_met(rows, size, diagonals, i, r, tokens), plain),
                row1, load(_met(rows, size, diagonals, i, r + 1, tokens), plain),
                row2, load(_met(rows, size, diagonals, i, r + 2, tokens), plain),
                row3, load(_met(rows, size, diagonals, i, r + 3, tokens), plain),
            )  # fmt: skip
            store(sums + (i * LANES + r) * item, four)


@inlined
def weighted_sum(acc, weights, r, rows, diagonals, count, tokens, plain, wide, size, item):
    """Adds the rows that token r of a block meets, each with its weight."""
    for i in range(count):
        if diagonals[i, FIRST] <= r and r < diagonals[i, LAST]:
            weight = peek(weights + (i * LANES + r) * item, wide)
            acc = add_scaled(acc, weight, load(_met(rows, size, diagonals, i, r, tokens), plain))
    return acc


@inlined
def masked_pairs(job, diagonals, count, wide):
    """How many keys each query of a block does not see."""
    hidden = filled(number(job.tokens, wide), wide)
    for i in range(count):
        seen = between(
            diagonals[i, FIRST], diagonals[i, LAST], filled(number(1, wide), wide), number(0, wide)
        )
        hidden = add_scaled(hidden, number(-1, wide), seen)
    return hidden


@inlined
def products_with_all(job, row, view, batch, head, sums, like, item):
    """Writes what a row gives with every token's of a view; there is room for a multiple of four."""
    final = job.tokens - 1
    for token in range(0, job.tokens, 4):
        four = dots(
            row, load(row_at(view, batch, head, token), like),
            row, load(row_at(view, batch, head, min(token + 1, final)), like),
            row, load(row_at(view, batch, head, min(token + 2, final)), like),
            row, load(row_at(view, batch, head, min(token + 3, final)), like),
        )  # fmt: skip
        store(sums + token * item, four)


@inlined
def weighted_sum_of_all(job, first, weights, view, batch, head, like, wide, item):
    """The sum of all tokens' rows of a view from a first one on, each with its weight."""
    acc = other = like  # two sums: each waits for itself
    pairs = (job.tokens - first) // 2
    for token in range(first, first + 2 * pairs, 2):
        place = weights + (token - first) * item
        acc = add_scaled(acc, peek(place, wide), load(row_at(view, batch, head, token), like))
        other = add_scaled(other, peek(place + item, wide), load(row_at(view, batch, head, token + 1), like))
    for token in range(first + 2 * pairs, job.tokens):
        place = weights + (token - first) * item
        acc = add_scaled(acc, peek(place, wide), load(row_at(view, batch, head, token), like))
    return add_scaled(acc, number(1, wide), other)
