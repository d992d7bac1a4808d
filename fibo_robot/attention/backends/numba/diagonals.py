"""What the compiled loops of diagonal attention share, forward and backward: how queries meet their keys.

- A run is a part of the patch tokens of one head of one example: all of them, where there are heads enough
  to keep every thread at work.
- LANES neighbouring patch tokens are a block. On one diagonal they meet as many neighbours, so a block's
  products lie side by side in registers, a row for each diagonal, and its softmax needs no sum across lanes.
- The rows that a run meets are copied first, to where they lie side by side: as views of a projection they
  are apart by a multiple of a page or nearly, and would share a few lines of the cache. Every row lies on a
  page of its own, so that coming back for it is dear: what is needed twice is copied, too.
- A diagonal is a row of `diagonals`, below. A prefix token has one too, on which nothing moves.
- Pairs of patch queries are kept in rows of `width` numbers, a number for each query. Row p < prefix belongs
  to prefix key p; an offset o has two more, for the shifts -o and +o to its key: `slots` rows in all.
"""

import numpy as np

from fibo_robot.attention.backends.numba.lanes import between, dots, filled
from fibo_robot.attention.backends.numba.runner import LANES, VIEW, inlined, row_at
from fibo_robot.attention.backends.numba.vectors import (
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
# v. `pairs` and `finished` are for the backward pass (kernels_backward.py). Head h owns
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
# block's tokens meet any, from FIRST to before LAST, and where the pair of the block's first one is kept.
START, STEP, FIRST, LAST, PAIR = range(5)
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
def _list(diagonals, i, start, step, first, last, pair):
    """Writes one diagonal."""
    diagonals[i, START], diagonals[i, STEP] = start, step
    diagonals[i, FIRST], diagonals[i, LAST], diagonals[i, PAIR] = first, last, pair


@inlined
def list_diagonals(job, head, token, last, backward, diagonals):
    """Lists the diagonals that meet tokens from this one to before `last`; returns how many they are.

    From queries to keys, or `backward` from keys to the queries of the same pairs.
    """
    size, patch, width = last - token, token - job.prefix, job.width
    for p in range(job.prefix):
        _list(diagonals, p, p, 0, 0, size, p * width + patch)
    count, slot = job.prefix, job.prefix
    for i in range(integer_at(job.starts, head), integer_at(job.starts, head + 1)):
        offset = integer_at(job.offsets, i)
        other = 1 if backward and offset > 0 else 0
        moved = offset if backward else 0  # pairs are kept by their query
        first = max(0, job.prefix + offset - token)
        if first < size:
            pair = (slot + other) * width + patch - moved
            _list(diagonals, count, token - offset, 1, first, size, pair)
            count += 1
        if offset > 0 and token + offset < job.tokens:
            met = min(size, job.tokens - offset - token)
            pair = (slot + 1 - other) * width + patch + moved
            _list(diagonals, count, token + offset, 1, 0, met, pair)
            count += 1
        slot += 2
    return count


@inlined
def copy_rows(job, view, batch, head, first, last, place, like, plain, size):
    """Copies rows of tokens from `first` to before `last` to a place, in the computing dtype.

    A token's row comes to lie at `place + token * size`.
    """
    for token in range(first, last):
        fetch(row_at(view, batch, head, token + AHEAD), like)
        store(place + token * size, stored(load(row_at(view, batch, head, token), like), plain))


@inlined
def copy_met_rows(job, view, batch, head, first, last, place, like, plain, size):
    """The same of the prefix tokens, and of all that tokens from `first` to before `last` meet."""
    copy_rows(job, view, batch, head, 0, job.prefix, place, like, plain, size)
    end = integer_at(job.starts, head + 1)
    if end > integer_at(job.starts, head):
        reach = integer_at(job.offsets, end - 1)
        first, last = max(job.prefix, first - reach), min(job.tokens, last + reach)
        copy_rows(job, view, batch, head, first, last, place, like, plain, size)


@inlined
def _met(rows, size, diagonals, i, r, tokens):
    """Address of the row that token r of a block meets on a diagonal; of any, if it meets none."""
    token = diagonals[i, START] + r * diagonals[i, STEP]
    return rows + min(max(token, 0), tokens - 1) * size


@inlined
def products(job, own_rows, token, last, rows, diagonals, count, sums, plain, size, item):
    """Writes what a block's own rows give with the rows they meet, at their pairs; both are copies."""
    final, tokens = last - 1, job.tokens
    for r in range(0, last - token, 4):
        row0 = load(own_rows + (token + r) * size, plain)
        row1 = load(own_rows + min(token + r + 1, final) * size, plain)
        row2 = load(own_rows + min(token + r + 2, final) * size, plain)
        row3 = load(own_rows + min(token + r + 3, final) * size, plain)
        for i in range(count):
            four = dots(
                row0, load(_met(rows, size, diagonals, i, r, tokens), plain),
                row1, load(_met(rows, size, diagonals, i, r + 1, tokens), plain),
                row2, load(_met(rows, size, diagonals, i, r + 2, tokens), plain),
                row3, load(_met(rows, size, diagonals, i, r + 3, tokens), plain),
            )  # fmt: skip
            store(sums + (diagonals[i, PAIR] + r) * item, four)


@inlined
def products_of_run(
    job, own_view, view, batch, head, first, last, own_rows, rows, diagonals, sums, like, plain, size, item
):  # fmt: skip
    """Copies a run's own rows of one view and the rows of another that they meet; writes their products."""
    copy_rows(job, own_view, batch, head, first, last, own_rows, like, plain, size)
    copy_met_rows(job, view, batch, head, first, last, rows, like, plain, size)
    for token in range(first, last, LANES):
        end = min(token + LANES, last)
        count = list_diagonals(job, head, token, end, False, diagonals)
        products(job, own_rows, token, end, rows, diagonals, count, sums, plain, size, item)


@inlined
def weighted_sum(acc, weights, r, rows, diagonals, count, tokens, plain, wide, size, item):
    """Adds the rows that token r of a block meets, each with its weight."""
    for i in range(count):
        if diagonals[i, FIRST] <= r and r < diagonals[i, LAST]:
            weight = peek(weights + (diagonals[i, PAIR] + r) * item, wide)
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
