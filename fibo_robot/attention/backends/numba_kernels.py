"""The compiled loops of the CPU backend; numba_cpu.py calls them.

What all kernels share:
- `q`, `k`, `v` and what has their shape are C-contiguous `(BH, N, D)`, with BH = batch x heads. Head h owns
  `offsets[starts[h]:starts[h + 1]]`; the first `prefix` of the N tokens are prefix tokens.
- A task is a tile of patch tokens of one BH, or its prefix tokens (the last task of each BH). A call works
  through the tasks `worker`, `worker + workers`, ...
- Within a tile the outer loop is over slots and the inner over tokens, so that queries and keys are both read
  as contiguous streams. Slot p < prefix stands for prefix key p; an offset o has two more, for the shifts +o
  (the key stands o before its query) and -o.
- Names are those of online softmax: `m_i` a query's largest logit, `l_i` its denominator, `acc` its sum of
  weighted values, `delta` the mean of its gradient over its weights, grad · out.
- In zero_logit mode a masked pair weighs e⁰, or `masked` = e^-m_i beside the others. A query with no masked
  pair has `masked` 0 and no 0 among its logits: were m_i at least 0 there too, very negative logits would all
  round to nothing.
"""

import math
from typing import NamedTuple

import numpy as np

from fibo_robot.attention.backends.numba_runner import add_scaled, compiled, dot, fill_row


class Diagonals(NamedTuple):
    """Which pairs meet and how; see the module's text and `diagonal_attention`."""

    offsets: np.ndarray
    starts: np.ndarray
    prefix: int
    zero_logit: bool
    scale: float
    tile: int
    lanes: tuple[int, ...]


class Pairs(NamedTuple):
    """What the backward pass stores of every pair.

    `weights`, `d_logits (BH, slots, N)` belong to the pairs of patch queries, `prefix_weights`,
    `prefix_d_logits (BH, prefix, N)` to those of prefix queries. Weights are those that multiply v: in
    zero_logit mode, what a pair has beyond e⁰.
    """

    weights: np.ndarray
    d_logits: np.ndarray
    prefix_weights: np.ndarray
    prefix_d_logits: np.ndarray


@compiled
def _slot_range(slot, head_offsets, prefix, tokens, first, last):
    """Queries in [first, last) that have a key in this slot, as (start, stop), and the shift to that key."""
    offset = head_offsets[(slot - prefix) // 2]
    if (slot - prefix) % 2 == 0:
        return max(first, prefix + offset), last, offset
    if offset == 0:  # the token itself, which the slot before holds already
        return first, first, 0
    return first, min(last, tokens - offset), -offset


@compiled
def _masked_keys(query, head_offsets, prefix, tokens):
    """How many tokens a patch query does not see."""
    seen = prefix
    for offset in head_offsets:
        if query - offset >= prefix:
            seen += 1
        if offset > 0 and query + offset < tokens:
            seen += 1
    return tokens - seen


@compiled
def _normalise(acc, row, l_i, m_i, nothing):
    """Divide a row of sums by its softmax denominator; returns the log of the latter."""
    if l_i == 0:
        return nothing
    inverse = acc.dtype.type(1) / l_i
    for d in range(acc.shape[1]):
        acc[row, d] *= inverse
    return m_i + math.log(l_i)


@compiled
def _forward_tile(q, k, v, total_v, head_offsets, diagonals, scale, first, last, logits, out, lse):
    """Patch queries [first, last). `logits (slots, tile)` is scratch; `lse` holds m_i at first, `out` acc."""
    tokens, prefix, lanes = q.shape[0], diagonals.prefix, diagonals.lanes
    nothing, zero = q.dtype.type(-np.inf), q.dtype.type(0)
    masked, l_i = np.zeros(last - first, q.dtype), np.zeros(last - first, q.dtype)
    for query in range(first, last):
        hidden = _masked_keys(query, head_offsets, prefix, tokens) if diagonals.zero_logit else 0
        l_i[query - first] = hidden
        lse[query] = zero if hidden > 0 else nothing
    slots = prefix + 2 * head_offsets.shape[0]
    for slot in range(slots):
        if slot < prefix:
            for query in range(first, last):
                logit = scale * dot(q, query, k, slot, lanes)
                logits[slot, query - first] = logit
                lse[query] = max(lse[query], logit)
        else:
            start, stop, shift = _slot_range(slot, head_offsets, prefix, tokens, first, last)
            for query in range(start, stop):
                logit = scale * dot(q, query, k, query - shift, lanes)
                logits[slot, query - first] = logit
                lse[query] = max(lse[query], logit)
    for row in range(last - first):
        if l_i[row] > 0:
            masked[row] = math.exp(-lse[first + row])
            l_i[row] *= masked[row]
        for d in range(out.shape[1]):
            out[first + row, d] = masked[row] * total_v[d]
    for slot in range(slots):
        if slot < prefix:
            for query in range(first, last):
                row = query - first
                weight = math.exp(logits[slot, row] - lse[query])
                l_i[row] += weight
                add_scaled(weight - masked[row], v, slot, out, query, lanes)
        else:
            start, stop, shift = _slot_range(slot, head_offsets, prefix, tokens, first, last)
            for query in range(start, stop):
                row = query - first
                weight = math.exp(logits[slot, row] - lse[query])
                l_i[row] += weight
                add_scaled(weight - masked[row], v, query - shift, out, query, lanes)
    for query in range(first, last):
        lse[query] = _normalise(out, query, l_i[query - first], lse[query], nothing)


@compiled
def _forward_prefix(q, k, v, prefix, scale, out, lse, lanes):
    """Prefix queries attend to every token, in both mask modes."""
    logits = np.empty(q.shape[0], q.dtype)
    for query in range(prefix):
        m_i = q.dtype.type(-np.inf)
        for key in range(q.shape[0]):
            logits[key] = scale * dot(q, query, k, key, lanes)
            m_i = max(m_i, logits[key])
        l_i = q.dtype.type(0)
        fill_row(out, query, np.zeros(q.shape[1], q.dtype))
        for key in range(q.shape[0]):
            weight = math.exp(logits[key] - m_i)
            l_i += weight
            add_scaled(weight, v, key, out, query, lanes)
        lse[query] = _normalise(out, query, l_i, m_i, q.dtype.type(-np.inf))


@compiled
def forward(q, k, v, total_v, diagonals, out, lse, worker, workers):
    """Writes `out (BH, N, D)` and the log-sum-exp `lse (BH, N)`; `total_v (BH, D)` is the sum of v."""
    groups, tokens, _ = q.shape
    offsets, starts, prefix = diagonals.offsets, diagonals.starts, diagonals.prefix
    heads = starts.shape[0] - 1
    tiles = (tokens - prefix + diagonals.tile - 1) // diagonals.tile
    scale = q.dtype.type(diagonals.scale)
    logits = np.empty((prefix + 2 * offsets.shape[0], diagonals.tile), q.dtype)
    for task in range(worker, groups * (tiles + 1), workers):
        bh, position = task // (tiles + 1), task % (tiles + 1)
        if position == tiles:
            _forward_prefix(q[bh], k[bh], v[bh], prefix, scale, out[bh], lse[bh], diagonals.lanes)
            continue
        first = prefix + position * diagonals.tile
        last = min(first + diagonals.tile, tokens)
        head_offsets = offsets[starts[bh % heads] : starts[bh % heads + 1]]
        _forward_tile(
            q[bh], k[bh], v[bh], total_v[bh], head_offsets, diagonals, scale,
            first, last, logits, out[bh], lse[bh],
        )  # fmt: skip


@compiled
def _pair_gradients(
    q, k, v, grad, query, query_step, key, key_step, count, lse, delta, scale, weights, d_logits, column,
    grad_q, lanes,
):  # fmt: skip
    """Weights and logit gradients of `count` pairs, stored from `column` on, and their part of dq.

    Pairs start at (query, key) and move on by the two steps; `delta` is indexed like `query`.
    """
    for _ in range(count):
        weight = math.exp(scale * dot(q, query, k, key, lanes) - lse[query])
        d_logit = weight * (dot(grad, query, v, key, lanes) - delta[query]) * scale
        weights[column] = weight
        d_logits[column] = d_logit
        add_scaled(d_logit, k, key, grad_q, query, lanes)
        query += query_step
        key += key_step
        column += 1


@compiled
def backward_queries(q, k, v, out, lse, grad, diagonals, pairs, delta, masked, grad_q, worker, workers):
    """First phase: walks over queries and writes `pairs`, `delta (BH, N)`, `masked (BH, N)` and `grad_q`."""
    groups, tokens, _ = q.shape
    offsets, starts, prefix, lanes = diagonals.offsets, diagonals.starts, diagonals.prefix, diagonals.lanes
    heads = starts.shape[0] - 1
    tiles = (tokens - prefix + diagonals.tile - 1) // diagonals.tile
    scale = q.dtype.type(diagonals.scale)
    zeros = np.zeros(q.shape[2], q.dtype)
    for task in range(worker, groups * (tiles + 1), workers):
        bh, position = task // (tiles + 1), task % (tiles + 1)
        qs, ks, vs, grads, grad_qs = q[bh], k[bh], v[bh], grad[bh], grad_q[bh]
        weights, d_logits, sums, deltas = pairs.weights[bh], pairs.d_logits[bh], lse[bh], delta[bh]
        first = 0 if position == tiles else prefix + position * diagonals.tile
        last = prefix if position == tiles else min(first + diagonals.tile, tokens)
        for query in range(first, last):
            deltas[query] = dot(grads, query, out[bh], query, lanes)
            masked[bh, query] = 0
            fill_row(grad_qs, query, zeros)
        if position == tiles:
            for query in range(prefix):
                _pair_gradients(
                    qs, ks, vs, grads, query, 0, 0, 1, tokens, sums, deltas, scale,
                    pairs.prefix_weights[bh, query], pairs.prefix_d_logits[bh, query], 0, grad_qs, lanes,
                )  # fmt: skip
            continue
        for slot in range(prefix):
            _pair_gradients(
                qs, ks, vs, grads, first, 1, slot, 0, last - first, sums, deltas, scale,
                weights[slot], d_logits[slot], first, grad_qs, lanes,
            )  # fmt: skip
        head_offsets = offsets[starts[bh % heads] : starts[bh % heads + 1]]
        slots = prefix + 2 * head_offsets.shape[0]
        for slot in range(prefix, slots):
            start, stop, shift = _slot_range(slot, head_offsets, prefix, tokens, first, last)
            _pair_gradients(
                qs, ks, vs, grads, start, 1, start - shift, 1, stop - start, sums, deltas, scale,
                weights[slot], d_logits[slot], start, grad_qs, lanes,
            )  # fmt: skip
        if diagonals.zero_logit:
            for query in range(first, last):
                if _masked_keys(query, head_offsets, prefix, tokens) > 0:
                    masked[bh, query] = math.exp(-sums[query])
                    for slot in range(slots):
                        weights[slot, query] -= masked[bh, query]


@compiled
def backward_keys(q, grad, total_grad, diagonals, pairs, grad_k, grad_v, worker, workers):
    """Second phase: walks over keys and gathers `grad_k`, `grad_v` from what the first phase stored.

    `total_grad (BH, D)` is what every row of v gets from masked pairs; 0 in drop mode.
    """
    groups, tokens, _ = q.shape
    offsets, starts, prefix, lanes = diagonals.offsets, diagonals.starts, diagonals.prefix, diagonals.lanes
    heads = starts.shape[0] - 1
    tiles = (tokens - prefix + diagonals.tile - 1) // diagonals.tile
    zeros = np.zeros(q.shape[2], q.dtype)
    for task in range(worker, groups * (tiles + 1), workers):
        bh, position = task // (tiles + 1), task % (tiles + 1)
        qs, grads, grad_ks, grad_vs = q[bh], grad[bh], grad_k[bh], grad_v[bh]
        weights, d_logits = pairs.weights[bh], pairs.d_logits[bh]
        first = 0 if position == tiles else prefix + position * diagonals.tile
        last = prefix if position == tiles else min(first + diagonals.tile, tokens)
        for key in range(first, last):
            fill_row(grad_ks, key, zeros)
            fill_row(grad_vs, key, total_grad[bh])
        for query in range(prefix):
            for key in range(first, last):
                add_scaled(pairs.prefix_d_logits[bh, query, key], qs, query, grad_ks, key, lanes)
                add_scaled(pairs.prefix_weights[bh, query, key], grads, query, grad_vs, key, lanes)
        if position == tiles:
            for key in range(prefix):
                for query in range(prefix, tokens):
                    add_scaled(d_logits[key, query], qs, query, grad_ks, key, lanes)
                    add_scaled(weights[key, query], grads, query, grad_vs, key, lanes)
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
                add_scaled(d_logits[slot, key - shift], qs, key - shift, grad_ks, key, lanes)
                add_scaled(weights[slot, key - shift], grads, key - shift, grad_vs, key, lanes)
