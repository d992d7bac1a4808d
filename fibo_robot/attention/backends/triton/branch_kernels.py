"""The Triton kernels of Castling's training branch; branch.py calls them.

As flash attention, with a mask: weights exist for a tile of queries and a tile of keys at a time, products
are the tensor cores', and the backward pass computes the weights anew from each query's log-sum-exp. Which
weights pass is known only once their denominator is, so the forward pass meets all keys twice.

Products are exact to 22 bits in float32 and summed in float32 in half precision, where weights are rounded
only once they are known to pass. All kernels compute a weight from the same products and the same stored
log-sum-exp by the same instructions, so what passed forward passes backward.

Tensors travel as in kernels.py. Tiles are padded to BLOCK_D columns of zeros. A program owns BLOCK rows and
meets OTHERS of the others at a time; whole tiles first, then the rest, where what is behind the last token is
masked (AT_EDGE).
"""

import triton
import triton.language as tl

from fibo_robot.attention.backends.triton.kernels import (
    LOG2_E,
    PRECISION,
    dot_rows,
    head_of,
    load_rows,
    place_of,
    store_rows,
)

WHOLE, EDGE = tl.constexpr(False), tl.constexpr(True)
ONE = tl.constexpr(0x3F800000)  # the bits of 1 in float32
WAYS = tl.constexpr(4)


@triton.jit
def _inside(rows, tokens, AT_EDGE: tl.constexpr):
    """Which rows exist: all of them away from the edge, which spares their loads a mask."""
    if AT_EDGE:
        return rows < tokens
    return tl.full(rows.shape, True, tl.int1)


@triton.jit
def _products(queries, keys, inside, AT_EDGE: tl.constexpr):
    """Queries by keys; -inf for keys that do not exist, which then weigh nothing."""
    products = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    if AT_EDGE:
        products = tl.where(inside[None, :], products, float("-inf"))
    return products


@triton.jit
def _sum_weights(
    queries, k_head, k_stride, m_i, l_i, first, last, tokens, factor,
    D: tl.constexpr, BLOCK_D: tl.constexpr, OTHERS: tl.constexpr, AT_EDGE: tl.constexpr,
):  # fmt: skip
    """Adds the keys from `first` on to each query's largest product and denominator."""
    for start in range(first, last, OTHERS):
        rows = start + tl.arange(0, OTHERS)
        inside = _inside(rows, tokens, AT_EDGE)
        products = _products(queries, load_rows(k_head, k_stride, rows, inside, D, BLOCK_D), inside, AT_EDGE)
        larger = tl.maximum(m_i, tl.max(products, axis=1))
        highest = larger * factor
        powers = tl.exp2(products * factor - highest[:, None])
        l_i = l_i * tl.exp2(m_i * factor - highest) + tl.sum(powers, axis=1)
        m_i = larger
    return m_i, l_i


@triton.jit
def _log_sum(m_i, l_i, factor):
    """The log-sum-exp of logits, as it is stored."""
    return (m_i * factor + tl.log2(l_i)) / LOG2_E


@triton.jit
def _sum_kept(
    queries, k_head, k_stride, v_head, v_stride, lse, cutoff, acc, passed, first, last, tokens, factor,
    D: tl.constexpr, BLOCK_D: tl.constexpr, OTHERS: tl.constexpr, AT_EDGE: tl.constexpr,
):  # fmt: skip
    """Adds the values of the keys from `first` on by their weights above the cutoff, and those weights."""
    for start in range(first, last, OTHERS):
        rows = start + tl.arange(0, OTHERS)
        inside = _inside(rows, tokens, AT_EDGE)
        products = _products(queries, load_rows(k_head, k_stride, rows, inside, D, BLOCK_D), inside, AT_EDGE)
        values = load_rows(v_head, v_stride, rows, inside, D, BLOCK_D)
        weights = tl.exp2(products * factor - lse[:, None])
        kept = tl.where(weights <= cutoff, 0.0, weights)
        passed += tl.sum(kept, axis=1)
        acc = tl.dot(kept.to(values.dtype), values, acc, input_precision=PRECISION)
    return acc, passed


@triton.jit
def forward_kernel(
    q, k, v, out, cutoffs, lse, passed, heads, tokens, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """`out`, and each query's log-sum-exp and sum of the weights above its head's cutoff `(BH, N)`."""
    tile, bh, batch, head = place_of(tl.cdiv(tokens, BLOCK), heads)
    k_head, v_head = head_of(k, batch, head), head_of(v, batch, head)
    rows = tile * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    queries = load_rows(head_of(q, batch, head), q[3], rows, inside, D, BLOCK_D)
    factor = scale * LOG2_E
    whole = tokens // OTHERS * OTHERS
    m_i = tl.full([BLOCK], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK], tl.float32)
    m_i, l_i = _sum_weights(
        queries, k_head, k[3], m_i, l_i, 0, whole, tokens, factor, D, BLOCK_D, OTHERS, WHOLE
    )
    m_i, l_i = _sum_weights(
        queries, k_head, k[3], m_i, l_i, whole, tokens, tokens, factor, D, BLOCK_D, OTHERS, EDGE
    )
    own_lse = _log_sum(m_i, l_i, factor)
    place = bh * tokens + rows
    tl.store(lse + place, own_lse, mask=inside)
    own_lse *= LOG2_E  # as the backward pass has it, from what was stored
    cutoff = tl.load(cutoffs + head)
    acc = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    sums = tl.zeros([BLOCK], tl.float32)
    acc, sums = _sum_kept(
        queries, k_head, k[3], v_head, v[3], own_lse, cutoff, acc, sums, 0, whole, tokens, factor,
        D, BLOCK_D, OTHERS, WHOLE,
    )  # fmt: skip
    acc, sums = _sum_kept(
        queries, k_head, k[3], v_head, v[3], own_lse, cutoff, acc, sums, whole, tokens, tokens, factor,
        D, BLOCK_D, OTHERS, EDGE,
    )  # fmt: skip
    store_rows(head_of(out, batch, head), out[3], rows, inside, acc, D, BLOCK_D)
    tl.store(passed + place, sums, mask=inside)


@triton.jit
def _sum_query_gradients(
    queries, grads, k_head, k_stride, v_head, v_stride, lse, delta, cutoff, acc, first, last, tokens, factor,
    D: tl.constexpr, BLOCK_D: tl.constexpr, OTHERS: tl.constexpr, AT_EDGE: tl.constexpr,
):  # fmt: skip
    """Adds the keys from `first` on by the gradient of their logits."""
    for start in range(first, last, OTHERS):
        rows = start + tl.arange(0, OTHERS)
        inside = _inside(rows, tokens, AT_EDGE)
        keys = load_rows(k_head, k_stride, rows, inside, D, BLOCK_D)
        values = load_rows(v_head, v_stride, rows, inside, D, BLOCK_D)
        weights = tl.exp2(_products(queries, keys, inside, AT_EDGE) * factor - lse[:, None])
        changes = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
        d_logits = weights * (tl.where(weights <= cutoff, 0.0, changes) - delta[:, None])
        acc = tl.dot(d_logits.to(keys.dtype), keys, acc, input_precision=PRECISION)
    return acc


@triton.jit
def backward_queries_kernel(
    grad, q, k, v, out, lse, cutoffs, grad_q, delta, heads, tokens, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """dq, and `delta (BH, N)`: the sum of a query's weights by their gradients, which is grad · out."""
    tile, bh, batch, head = place_of(tl.cdiv(tokens, BLOCK), heads)
    k_head, v_head = head_of(k, batch, head), head_of(v, batch, head)
    rows = tile * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    queries = load_rows(head_of(q, batch, head), q[3], rows, inside, D, BLOCK_D)
    grads = load_rows(head_of(grad, batch, head), grad[3], rows, inside, D, BLOCK_D)
    own_delta = dot_rows(grads, load_rows(head_of(out, batch, head), out[3], rows, inside, D, BLOCK_D))
    place = bh * tokens + rows
    tl.store(delta + place, own_delta, mask=inside)
    own_lse = tl.load(lse + place, mask=inside, other=float("inf")) * LOG2_E
    factor = scale * LOG2_E
    whole = tokens // OTHERS * OTHERS
    cutoff = tl.load(cutoffs + head)
    acc = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    acc = _sum_query_gradients(
        queries, grads, k_head, k[3], v_head, v[3], own_lse, own_delta, cutoff, acc, 0, whole, tokens, factor,
        D, BLOCK_D, OTHERS, WHOLE,
    )  # fmt: skip
    acc = _sum_query_gradients(
        queries, grads, k_head, k[3], v_head, v[3], own_lse, own_delta, cutoff, acc, whole, tokens, tokens,
        factor, D, BLOCK_D, OTHERS, EDGE,
    )  # fmt: skip
    store_rows(head_of(grad_q, batch, head), grad_q[3], rows, inside, acc * scale, D, BLOCK_D)


@triton.jit
def backward_keys_kernel(
    grad, q, k, v, lse, delta, cutoffs, grad_k, grad_v, heads, tokens, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """dk and dv; tiles of weights are keys by queries."""
    tile, bh, batch, head = place_of(tl.cdiv(tokens, BLOCK), heads)
    q_head, grad_head = head_of(q, batch, head), head_of(grad, batch, head)
    lse, delta = lse + bh * tokens, delta + bh * tokens
    rows = tile * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    keys = load_rows(head_of(k, batch, head), k[3], rows, inside, D, BLOCK_D)
    values = load_rows(head_of(v, batch, head), v[3], rows, inside, D, BLOCK_D)
    factor = scale * LOG2_E
    cutoff = tl.load(cutoffs + head)
    sum_k = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    sum_v = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for start in range(0, tokens, OTHERS):
        others = start + tl.arange(0, OTHERS)
        there = others < tokens
        queries = load_rows(q_head, q[3], others, there, D, BLOCK_D)
        grads = load_rows(grad_head, grad[3], others, there, D, BLOCK_D)
        # A query that does not exist weighs nothing.
        their_lse = tl.load(lse + others, mask=there, other=float("inf")) * LOG2_E
        their_delta = tl.load(delta + others, mask=there, other=0.0)
        products = tl.dot(keys, tl.trans(queries), input_precision=PRECISION)
        weights = tl.exp2(products * factor - their_lse[None, :])
        masked = weights <= cutoff
        kept = tl.where(masked, 0.0, weights)
        sum_v = tl.dot(kept.to(grads.dtype), grads, sum_v, input_precision=PRECISION)
        changes = tl.dot(values, tl.trans(grads), input_precision=PRECISION)
        d_logits = weights * (tl.where(masked, 0.0, changes) - their_delta[None, :])
        sum_k = tl.dot(d_logits.to(queries.dtype), queries, sum_k, input_precision=PRECISION)
    store_rows(head_of(grad_k, batch, head), grad_k[3], rows, inside, sum_k * scale, D, BLOCK_D)
    store_rows(head_of(grad_v, batch, head), grad_v[3], rows, inside, sum_v, D, BLOCK_D)


@triton.jit
def sampled_weights_kernel(
    q, k, weights, batch, heads, tokens, queries, examples, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """`weights (heads, examples, queries, N)` of so many queries, at most BLOCK, evenly from each sequence.

    A program owns a head of one of so many examples, evenly from the batch.
    """
    example, head = tl.program_id(0) % examples, tl.program_id(0) // examples
    of_batch, of_head = (example * batch // examples).to(tl.int64), head.to(tl.int64)
    k_head = head_of(k, of_batch, of_head)
    numbers = tl.arange(0, BLOCK)
    sampled = numbers < queries
    own = load_rows(head_of(q, of_batch, of_head), q[3], numbers * tokens // queries, sampled, D, BLOCK_D)
    factor = scale * LOG2_E
    m_i = tl.full([BLOCK], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK], tl.float32)
    m_i, l_i = _sum_weights(own, k_head, k[3], m_i, l_i, 0, tokens, tokens, factor, D, BLOCK_D, OTHERS, EDGE)
    lse = _log_sum(m_i, l_i, factor) * LOG2_E
    into = weights + (tl.program_id(0) * queries + numbers).to(tl.int64)[:, None] * tokens
    for start in range(0, tokens, OTHERS):
        rows = start + tl.arange(0, OTHERS)
        inside = rows < tokens
        products = _products(own, load_rows(k_head, k[3], rows, inside, D, BLOCK_D), inside, EDGE)
        values = tl.exp2(products * factor - lse[:, None])
        tl.store(into + rows[None, :], values, mask=sampled[:, None] & inside[None, :])


@triton.jit
def threshold_kernel(weights, found, count, mass, BLOCK: tl.constexpr):
    """The largest of a head's `count` weights without which those above it carry less than the share `mass`.

    Found among all float32 numbers in [0, 1], whose bits are ordered as they are: each pass over the weights
    sums those above each of WAYS bounds, and leaves the interval between two of these.
    """
    head = tl.program_id(0)
    weights += head.to(tl.int64) * count
    total = tl.sum(_mass_above(weights, count, tl.full([WAYS], -1.0, tl.float32), BLOCK), axis=0) / WAYS
    low, high = -1, ONE
    while high - low > 1:
        step = (high - low + WAYS - 1) // WAYS
        bounds = (low + step * (1 + tl.arange(0, WAYS))).to(tl.float32, bitcast=True)
        passed = _mass_above(weights, count, bounds, BLOCK) >= mass * total
        low += step * tl.sum(passed.to(tl.int32), axis=0)
        high = tl.minimum(high, low + step)
    bits = tl.full([1], high, tl.int32)
    tl.store(found + head + tl.arange(0, 1), bits.to(tl.float32, bitcast=True))


@triton.jit
def _mass_above(weights, count, bounds, BLOCK: tl.constexpr):
    """The sums of those weights that are above each of the bounds."""
    sums = tl.zeros([BLOCK, WAYS], tl.float32)
    for start in range(0, count, BLOCK):
        places = start + tl.arange(0, BLOCK)
        values = tl.load(weights + places, mask=places < count, other=0.0)[:, None]
        sums += tl.where(values > bounds[None, :], values, 0.0)
    return tl.sum(sums, axis=0)
