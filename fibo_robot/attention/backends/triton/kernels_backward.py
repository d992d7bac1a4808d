"""The Triton kernels of the backward pass; cuda.py calls them, see kernels.py for the forward.

Two kernels walk the diagonals: in the first a tile acts as queries, in the second as keys, so every row is
written by one program, in the tensor's own type, from sums in float32. Both meet the prefix tokens as slots:
what a tile contributes to their gradients is stored per tile, and `backward_prefix_kernel` adds it up.

`delta` is the mean of a query's gradient over its weights, grad · out. `masked` is what a masked pair weighs
in zero_logit mode; 0 for a query without one. A pair's weight as far as values are concerned is then its own
minus `masked`, and every key is given `masked` times the gradient of all queries besides.
"""

import triton
import triton.language as tl

from fibo_robot.attention.backends.triton.kernels import (
    LOG2_E,
    dot,
    dot_rows,
    head_of,
    load_row,
    load_rows,
    place_of,
    store_row,
    store_rows,
    sum_of_rows,
)


@triton.jit
def backward_queries_kernel(
    q, k, v, out, grad, lse, offsets, starts, grad_q, delta, masked, partial_kv, partial_masked,
    heads, tokens, prefix, scale,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Patch rows of dq, `delta` and `masked (BH, N)`, and what the tile gives to prefix keys.

    `partial_kv (2, BH, prefix, tiles, D)` are its parts of their dk and dv, `partial_masked (BH, tiles, D)`
    its sum of masked · grad.
    """
    tiles = tl.cdiv(tokens - prefix, BLOCK)
    of_v = tl.num_programs(0).to(tl.int64) * prefix
    tile, bh, batch, head = place_of(tiles, heads)
    k_head, v_head = head_of(k, batch, head), head_of(v, batch, head)
    rows = prefix + tile * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    own_q = load_rows(head_of(q, batch, head), q[3], rows, inside, D, BLOCK_D)
    own_grad = load_rows(head_of(grad, batch, head), grad[3], rows, inside, D, BLOCK_D)
    own_out = load_rows(head_of(out, batch, head), out[3], rows, inside, D, BLOCK_D)
    own_delta = dot_rows(own_grad, own_out)
    tl.store(delta + bh * tokens + rows, own_delta, mask=inside)
    own_lse = tl.load(lse + bh * tokens + rows, mask=inside, other=0.0) * LOG2_E
    factor = scale * LOG2_E
    sum_q = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for token in range(prefix):
        keys = load_row(k_head, k[3], token, D, BLOCK_D)[None, :]
        values = load_row(v_head, v[3], token, D, BLOCK_D)[None, :]
        weights = tl.where(inside, tl.exp2(dot_rows(own_q, keys) * factor - own_lse), 0.0)
        d_logits = weights * (dot_rows(own_grad, values) - own_delta)
        sum_q += d_logits[:, None] * keys
        place = (bh * prefix + token) * tiles + tile
        store_row(partial_kv, D, place, tl.sum(d_logits[:, None] * own_q, axis=0), D, BLOCK_D)
        store_row(partial_kv, D, of_v + place, tl.sum(weights[:, None] * own_grad, axis=0), D, BLOCK_D)
    seen = tl.zeros([BLOCK], tl.int32) + prefix
    start, end = tl.load(starts + head), tl.load(starts + head + 1)
    for index in tl.range(start, end, num_stages=1):  # pyright: ignore[reportGeneralTypeIssues]
        offset = tl.load(offsets + index)
        before, behind = rows - offset, rows + offset
        sees_before = inside & (before >= prefix)
        sees_behind = inside & (behind < tokens) & (offset > 0)
        k_before = load_rows(k_head, k[3], before, sees_before, D, BLOCK_D)
        v_before = load_rows(v_head, v[3], before, sees_before, D, BLOCK_D)
        k_behind = load_rows(k_head, k[3], behind, sees_behind, D, BLOCK_D)
        v_behind = load_rows(v_head, v[3], behind, sees_behind, D, BLOCK_D)
        weights = tl.where(sees_before, tl.exp2(dot_rows(own_q, k_before) * factor - own_lse), 0.0)
        sum_q += (weights * (dot_rows(own_grad, v_before) - own_delta))[:, None] * k_before
        weights = tl.where(sees_behind, tl.exp2(dot_rows(own_q, k_behind) * factor - own_lse), 0.0)
        sum_q += (weights * (dot_rows(own_grad, v_behind) - own_delta))[:, None] * k_behind
        if ZERO_LOGIT:
            seen += sees_before.to(tl.int32) + sees_behind.to(tl.int32)
    store_rows(head_of(grad_q, batch, head), grad_q[3], rows, inside, sum_q * scale, D, BLOCK_D)
    if ZERO_LOGIT:
        blind = inside & (seen < tokens)
        own_masked = tl.where(blind, tl.exp2(-own_lse), 0.0)
        tl.store(masked + bh * tokens + rows, own_masked, mask=inside)
        given = tl.sum(own_masked[:, None] * own_grad, axis=0)
        store_row(partial_masked, D, bh * tiles + tile, given, D, BLOCK_D)


@triton.jit
def backward_keys_kernel(
    q, k, v, out, grad, lse, delta, masked, masked_grad, offsets, starts, grad_k, grad_v, partial_q,
    heads, tokens, prefix, scale,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Patch rows of dk and dv, and what the tile gives to prefix queries.

    `masked_grad (BH, D)` is the sum of masked · grad over all queries; `partial_q (BH, prefix, tiles, D)` are
    the tile's parts of dq.
    """
    tiles = tl.cdiv(tokens - prefix, BLOCK)
    tile, bh, batch, head = place_of(tiles, heads)
    q_head, grad_head, out_head = (
        head_of(q, batch, head),
        head_of(grad, batch, head),
        head_of(out, batch, head),
    )
    lse, delta, masked = lse + bh * tokens, delta + bh * tokens, masked + bh * tokens
    rows = prefix + tile * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    own_k = load_rows(head_of(k, batch, head), k[3], rows, inside, D, BLOCK_D)
    own_v = load_rows(head_of(v, batch, head), v[3], rows, inside, D, BLOCK_D)
    factor = scale * LOG2_E
    sum_k = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    sum_v = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for token in range(prefix):
        queries = load_row(q_head, q[3], token, D, BLOCK_D)
        grads = load_row(grad_head, grad[3], token, D, BLOCK_D)
        their_delta = dot(grads, load_row(out_head, out[3], token, D, BLOCK_D))
        their_lse = tl.load(lse + token) * LOG2_E
        logits = dot_rows(own_k, queries[None, :]) * factor
        weights = tl.where(inside, tl.exp2(logits - their_lse), 0.0)
        d_logits = weights * (dot_rows(own_v, grads[None, :]) - their_delta)
        sum_k += d_logits[:, None] * queries[None, :]
        sum_v += weights[:, None] * grads[None, :]
        place = (bh * prefix + token) * tiles + tile
        store_row(partial_q, D, place, tl.sum(d_logits[:, None] * own_k, axis=0), D, BLOCK_D)
    start, end = tl.load(starts + head), tl.load(starts + head + 1)
    for index in tl.range(start, end, num_stages=1):  # pyright: ignore[reportGeneralTypeIssues]
        offset = tl.load(offsets + index)
        for side in tl.static_range(2):  # pyright: ignore[reportGeneralTypeIssues]: Triton unrolls it
            others = rows + (2 * side - 1) * offset
            valid = inside & (others >= prefix) & (others < tokens) & ((side == 0) | (offset > 0))
            other_q = load_rows(q_head, q[3], others, valid, D, BLOCK_D)
            other_grad = load_rows(grad_head, grad[3], others, valid, D, BLOCK_D)
            other_lse = tl.load(lse + others, mask=valid, other=0.0) * LOG2_E
            other_delta = tl.load(delta + others, mask=valid, other=0.0)
            logits = dot_rows(other_q, own_k) * factor
            weights = tl.where(valid, tl.exp2(logits - other_lse), 0.0)
            d_logits = weights * (dot_rows(other_grad, own_v) - other_delta)
            sum_k += d_logits[:, None] * other_q
            if ZERO_LOGIT:
                weights -= tl.load(masked + others, mask=valid, other=0.0)
            sum_v += weights[:, None] * other_grad
    if ZERO_LOGIT:
        sum_v += load_row(masked_grad, D, bh, D, BLOCK_D)[None, :]
    store_rows(head_of(grad_k, batch, head), grad_k[3], rows, inside, sum_k * scale, D, BLOCK_D)
    store_rows(head_of(grad_v, batch, head), grad_v[3], rows, inside, sum_v, D, BLOCK_D)


@triton.jit
def backward_prefix_kernel(
    q, k, v, out, grad, lse, grad_q, grad_k, grad_v, partial_q, partial_kv,
    heads, tokens, prefix, tiles_of_queries, tiles_of_keys, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Prefix rows of dq, dk and dv: one program each, over the prefix's own pairs and all tiles' parts.

    Tiles that act as queries leave parts of dk and dv, tiles that act as keys parts of dq.
    """
    token, bh, batch, head = place_of(prefix, heads)
    q_head, k_head, v_head = head_of(q, batch, head), head_of(k, batch, head), head_of(v, batch, head)
    out_head, grad_head = head_of(out, batch, head), head_of(grad, batch, head)
    own_q = load_row(q_head, q[3], token, D, BLOCK_D)
    own_k = load_row(k_head, k[3], token, D, BLOCK_D)
    own_v = load_row(v_head, v[3], token, D, BLOCK_D)
    own_grad = load_row(grad_head, grad[3], token, D, BLOCK_D)
    own_delta = dot(own_grad, load_row(out_head, out[3], token, D, BLOCK_D))
    own_lse = tl.load(lse + bh * tokens + token) * LOG2_E
    factor = scale * LOG2_E
    place = bh * prefix + token
    sum_q = sum_of_rows(partial_q, place * tiles_of_keys, tiles_of_keys, D, BLOCK_D, SPLITS)
    of_v = place + tl.num_programs(0)
    sum_k = sum_of_rows(partial_kv, place * tiles_of_queries, tiles_of_queries, D, BLOCK_D, SPLITS)
    sum_v = sum_of_rows(partial_kv, of_v * tiles_of_queries, tiles_of_queries, D, BLOCK_D, SPLITS)
    for other in range(prefix):
        other_k = load_row(k_head, k[3], other, D, BLOCK_D)
        weight = tl.exp2(dot(own_q, other_k) * factor - own_lse)
        given = dot(own_grad, load_row(v_head, v[3], other, D, BLOCK_D))
        sum_q += weight * (given - own_delta) * other_k
        other_q = load_row(q_head, q[3], other, D, BLOCK_D)
        other_grad = load_row(grad_head, grad[3], other, D, BLOCK_D)
        other_delta = dot(other_grad, load_row(out_head, out[3], other, D, BLOCK_D))
        other_lse = tl.load(lse + bh * tokens + other) * LOG2_E
        weight = tl.exp2(dot(other_q, own_k) * factor - other_lse)
        sum_k += weight * (dot(other_grad, own_v) - other_delta) * other_q
        sum_v += weight * other_grad
    store_row(head_of(grad_q, batch, head), grad_q[3], token, sum_q * scale, D, BLOCK_D)
    store_row(head_of(grad_k, batch, head), grad_k[3], token, sum_k * scale, D, BLOCK_D)
    store_row(head_of(grad_v, batch, head), grad_v[3], token, sum_v, D, BLOCK_D)
