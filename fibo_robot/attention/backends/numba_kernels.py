"""The compiled loops of the CPU backend; numba_cpu.py calls them.

What all kernels share:
- `q`, `k`, `v` and what has their shape are C-contiguous `(BH, N, D)`, with BH = batch x heads. Head h owns
  `offsets[starts[h]:starts[h + 1]]`; the first `prefix` of the N tokens are prefix tokens.
- A task is a tile of patch tokens of one BH, or its prefix tokens (the last task of each BH). A call works
  through the tasks `worker`, `worker + workers`, ...
- Within a tile the outer loop is over slots and the inner over tokens, so that queries and keys are both read
  as contiguous streams. Slot p < prefix stands for prefix key p; an offset o has two more, for the shifts +o
  (the key stands o before its query) and -o.
- `lanes` is a tuple of length D, or empty. The length of a tuple belongs to its type, so with it the loops
  over D have a constant count, which makes them 1.5 times faster; one version is compiled per length.
- Sums may be reordered, but NaN and infinity keep their meaning.
"""

import math

import numpy as np
from numba import njit

_compile = njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")


@_compile
def _dot(a, i, b, j, lanes):
    total = a.dtype.type(0)
    for d in range(len(lanes) if len(lanes) > 0 else a.shape[1]):
        total += a[i, d] * b[j, d]
    return total


@_compile
def _add_scaled(factor, source, i, target, j, lanes):
    for d in range(len(lanes) if len(lanes) > 0 else source.shape[1]):
        target[j, d] += factor * source[i, d]


@_compile
def _fill_row(target, i, values):
    for d in range(values.shape[0]):
        target[i, d] = values[d]


@_compile
def _slot_range(slot, head_offsets, prefix, tokens, first, last):
    """Queries in [first, last) that have a key in this slot, as (start, stop), and the shift to that key."""
    offset = head_offsets[(slot - prefix) // 2]
    if (slot - prefix) % 2 == 0:
        return max(first, prefix + offset), last, offset
    if offset == 0:  # the token itself, which the slot before holds already
        return first, first, 0
    return first, min(last, tokens - offset), -offset


@_compile
def _normalise(out, row, denominator, highest, nothing):
    """Divide a row of sums by its softmax denominator; returns the log of the latter."""
    if denominator == 0:
        return nothing
    inverse = out.dtype.type(1) / denominator
    for d in range(out.shape[1]):
        out[row, d] *= inverse
    return highest + math.log(denominator)


@_compile
def _forward_tile(
    q, k, v, total_v, head_offsets, prefix, zero_logit, scale, first, last, logits, out, lse, lanes
):
    """Patch queries [first, last). `logits (slots, tile)` is scratch; `lse` holds the maximum at first."""
    tokens = q.shape[0]
    nothing = q.dtype.type(-np.inf)
    masked, denominators = np.zeros(last - first, q.dtype), np.zeros(last - first, q.dtype)
    for query in range(first, last):
        lse[query] = q.dtype.type(0) if zero_logit else nothing
    slots = prefix + 2 * head_offsets.shape[0]
    for slot in range(slots):
        if slot < prefix:
            for query in range(first, last):
                logit = scale * _dot(q, query, k, slot, lanes)
                logits[slot, query - first] = logit
                lse[query] = max(lse[query], logit)
        else:
            start, stop, shift = _slot_range(slot, head_offsets, prefix, tokens, first, last)
            for query in range(start, stop):
                logit = scale * _dot(q, query, k, query - shift, lanes)
                logits[slot, query - first] = logit
                lse[query] = max(lse[query], logit)
    for row in range(last - first):
        if zero_logit:
            masked[row] = math.exp(-lse[first + row])
            denominators[row] = masked[row] * tokens
        for d in range(out.shape[1]):
            out[first + row, d] = masked[row] * total_v[d]
    for slot in range(slots):
        if slot < prefix:
            for query in range(first, last):
                row = query - first
                weight = math.exp(logits[slot, row] - lse[query]) - masked[row]
                denominators[row] += weight
                _add_scaled(weight, v, slot, out, query, lanes)
        else:
            start, stop, shift = _slot_range(slot, head_offsets, prefix, tokens, first, last)
            for query in range(start, stop):
                row = query - first
                weight = math.exp(logits[slot, row] - lse[query]) - masked[row]
                denominators[row] += weight
                _add_scaled(weight, v, query - shift, out, query, lanes)
    for query in range(first, last):
        lse[query] = _normalise(out, query, denominators[query - first], lse[query], nothing)


@_compile
def _forward_prefix(q, k, v, prefix, scale, out, lse, lanes):
    """Prefix queries attend to every token, in both mask modes."""
    logits = np.empty(q.shape[0], q.dtype)
    for query in range(prefix):
        highest = q.dtype.type(-np.inf)
        for key in range(q.shape[0]):
            logits[key] = scale * _dot(q, query, k, key, lanes)
            highest = max(highest, logits[key])
        denominator = q.dtype.type(0)
        _fill_row(out, query, np.zeros(q.shape[1], q.dtype))
        for key in range(q.shape[0]):
            weight = math.exp(logits[key] - highest)
            denominator += weight
            _add_scaled(weight, v, key, out, query, lanes)
        lse[query] = _normalise(out, query, denominator, highest, q.dtype.type(-np.inf))


@_compile
def forward(
    q, k, v, total_v, offsets, starts, prefix, zero_logit, scale, tile, out, lse, lanes, worker, workers
):
    """Writes `out (BH, N, D)` and the log-sum-exp `lse (BH, N)`; `total_v (BH, D)` is the sum of v."""
    groups, tokens, _ = q.shape
    heads = starts.shape[0] - 1
    tiles = (tokens - prefix + tile - 1) // tile
    scale = q.dtype.type(scale)
    logits = np.empty((prefix + 2 * offsets.shape[0], tile), q.dtype)
    for task in range(worker, groups * (tiles + 1), workers):
        bh, position = task // (tiles + 1), task % (tiles + 1)
        if position == tiles:
            _forward_prefix(q[bh], k[bh], v[bh], prefix, scale, out[bh], lse[bh], lanes)
            continue
        first = prefix + position * tile
        head_offsets = offsets[starts[bh % heads] : starts[bh % heads + 1]]
        _forward_tile(
            q[bh], k[bh], v[bh], total_v[bh], head_offsets, prefix, zero_logit, scale,
            first, min(first + tile, tokens), logits, out[bh], lse[bh], lanes,
        )  # fmt: skip


@_compile
def _pair_gradients(
    q, k, v, grad, query, query_step, key, key_step, count, lse, means, scale, weights, logits, slot, column,
    grad_q, lanes,
):  # fmt: skip
    """Weights and logit gradients of `count` pairs, stored from [slot, column] on, and their part of dq.

    Pairs start at (query, key) and move on by the two steps; `means` is indexed like `query`.
    """
    for _ in range(count):
        weight = math.exp(scale * _dot(q, query, k, key, lanes) - lse[query])
        logit = weight * (_dot(grad, query, v, key, lanes) - means[query]) * scale
        weights[slot, column] = weight
        logits[slot, column] = logit
        _add_scaled(logit, k, key, grad_q, query, lanes)
        query += query_step
        key += key_step
        column += 1


@_compile
def backward_queries(
    q, k, v, out, lse, grad, offsets, starts, prefix, zero_logit, scale, tile,
    weights, logits, prefix_weights, prefix_logits, means, grad_q, lanes, worker, workers,
):  # fmt: skip
    """First phase: walks over queries and writes `weights` to `grad_q`.

    `weights`, `logits (BH, slots, N)` belong to the pairs of patch queries, `prefix_weights`, `prefix_logits
    (BH, prefix, N)` to those of prefix queries. Weights are those that multiply v: in zero_logit mode, what a
    pair has beyond e⁰. `means (BH, N)` is the gradient's mean over a query's weights, grad · out.
    """
    groups, tokens, _ = q.shape
    heads = starts.shape[0] - 1
    tiles = (tokens - prefix + tile - 1) // tile
    scale = q.dtype.type(scale)
    zeros = np.zeros(q.shape[2], q.dtype)
    for task in range(worker, groups * (tiles + 1), workers):
        bh, position = task // (tiles + 1), task % (tiles + 1)
        qs, ks, vs, grads, grad_qs = q[bh], k[bh], v[bh], grad[bh], grad_q[bh]
        rows, logit_rows, sums, mean = weights[bh], logits[bh], lse[bh], means[bh]
        first = 0 if position == tiles else prefix + position * tile
        last = prefix if position == tiles else min(first + tile, tokens)
        for query in range(first, last):
            mean[query] = _dot(grads, query, out[bh], query, lanes)
            _fill_row(grad_qs, query, zeros)
        if position == tiles:
            for query in range(prefix):
                _pair_gradients(
                    qs, ks, vs, grads, query, 0, 0, 1, tokens, sums, mean, scale,
                    prefix_weights[bh], prefix_logits[bh], query, 0, grad_qs, lanes,
                )  # fmt: skip
            continue
        for slot in range(prefix):
            _pair_gradients(
                qs, ks, vs, grads, first, 1, slot, 0, last - first, sums, mean, scale,
                rows, logit_rows, slot, first, grad_qs, lanes,
            )  # fmt: skip
        head_offsets = offsets[starts[bh % heads] : starts[bh % heads + 1]]
        slots = prefix + 2 * head_offsets.shape[0]
        for slot in range(prefix, slots):
            start, stop, shift = _slot_range(slot, head_offsets, prefix, tokens, first, last)
            _pair_gradients(
                qs, ks, vs, grads, start, 1, start - shift, 1, stop - start, sums, mean, scale,
                rows, logit_rows, slot, start, grad_qs, lanes,
            )  # fmt: skip
        if zero_logit:
            for query in range(first, last):
                masked = math.exp(-sums[query])
                for slot in range(slots):
                    rows[slot, query] -= masked


@_compile
def backward_keys(
    q, grad, total_grad, offsets, starts, prefix, tile,
    weights, logits, prefix_weights, prefix_logits, grad_k, grad_v, lanes, worker, workers,
):  # fmt: skip
    """Second phase: walks over keys and gathers `grad_k`, `grad_v` from what the first phase stored.

    `total_grad (BH, D)` is what every row of v gets from masked pairs; 0 in drop mode.
    """
    groups, tokens, _ = q.shape
    heads = starts.shape[0] - 1
    tiles = (tokens - prefix + tile - 1) // tile
    zeros = np.zeros(q.shape[2], q.dtype)
    for task in range(worker, groups * (tiles + 1), workers):
        bh, position = task // (tiles + 1), task % (tiles + 1)
        qs, grads, grad_ks, grad_vs = q[bh], grad[bh], grad_k[bh], grad_v[bh]
        rows, logit_rows = weights[bh], logits[bh]
        prefix_rows, prefix_logit_rows = prefix_weights[bh], prefix_logits[bh]
        first = 0 if position == tiles else prefix + position * tile
        last = prefix if position == tiles else min(first + tile, tokens)
        for key in range(first, last):
            _fill_row(grad_ks, key, zeros)
            _fill_row(grad_vs, key, total_grad[bh])
        for query in range(prefix):
            for key in range(first, last):
                _add_scaled(prefix_logit_rows[query, key], qs, query, grad_ks, key, lanes)
                _add_scaled(prefix_rows[query, key], grads, query, grad_vs, key, lanes)
        if position == tiles:
            for key in range(prefix):
                for query in range(prefix, tokens):
                    _add_scaled(logit_rows[key, query], qs, query, grad_ks, key, lanes)
                    _add_scaled(rows[key, query], grads, query, grad_vs, key, lanes)
            continue
        head_offsets = offsets[starts[bh % heads] : starts[bh % heads + 1]]
        for slot in range(prefix, prefix + 2 * head_offsets.shape[0]):
            # The keys of [first, last) that this slot serves are the queries of the opposite shift.
            offset = head_offsets[(slot - prefix) // 2]
            opposite = slot + 1 if (slot - prefix) % 2 == 0 and offset > 0 else slot - 1
            if offset == 0:
                opposite = slot
            start, stop, shift = _slot_range(opposite, head_offsets, prefix, tokens, first, last)
            for key in range(start, stop):
                _add_scaled(logit_rows[slot, key - shift], qs, key - shift, grad_ks, key, lanes)
                _add_scaled(rows[slot, key - shift], grads, key - shift, grad_vs, key, lanes)
