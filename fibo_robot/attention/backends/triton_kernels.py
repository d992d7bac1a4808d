"""The Triton kernels of the CUDA backend; triton_cuda.py calls them.

A program owns a tile of consecutive patch tokens of one head. For each offset it meets the tile shifted by
that offset, which is contiguous in memory, once before and once behind. `q`, `k`, `v` and all of their shape
are contiguous `(BH, N, D)`; everything is computed in float32. All tiles are padded to BLOCK_D columns.

Names are those of online softmax: `m_i` a query's largest logit, `l_i` its denominator, `acc` its sum of
weighted values, `delta` the mean of its gradient over its weights, grad · out. `masked` is what a masked pair
weighs in zero_logit mode; 0 for a query without one (see numba_kernels.py).
"""

import triton
import triton.language as tl


@triton.jit
def _load_rows(base, rows, valid, D: tl.constexpr, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)
    mask = valid[:, None] & (columns < D)[None, :]
    return tl.load(base + rows[:, None] * D + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _store_rows(base, rows, valid, values, D: tl.constexpr, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)
    mask = valid[:, None] & (columns < D)[None, :]
    tl.store(base + rows[:, None] * D + columns[None, :], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _load_row(base, row, D: tl.constexpr, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)
    return tl.load(base + row * D + columns, mask=columns < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _online_softmax(m_i, l_i, acc, logits, values, valid):
    """Add one key per row to the running softmax."""
    logits = tl.where(valid, logits, float("-inf"))
    larger = tl.maximum(m_i, logits)
    reference = tl.where(larger == float("-inf"), 0.0, larger)  # a row without keys so far
    rescale = tl.exp(m_i - reference)
    weights = tl.exp(logits - reference)
    return larger, l_i * rescale + weights, acc * rescale[:, None] + weights[:, None] * values


@triton.jit
def forward_kernel(
    q, k, v, total_v, offsets, starts, out, lse, heads, tokens, prefix, scale,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Patch rows of `out (BH, N, D)` and `lse (BH, N)`; `total_v (BH, D)` is the sum of v."""
    bh = tl.program_id(1).to(tl.int64)
    q, k, v, out = q + bh * tokens * D, k + bh * tokens * D, v + bh * tokens * D, out + bh * tokens * D
    rows = prefix + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    queries = _load_rows(q, rows, inside, D, BLOCK_D) * scale
    m_i = tl.zeros([BLOCK], tl.float32) - float("inf")
    l_i = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    seen = tl.zeros([BLOCK], tl.int32) + prefix
    seen_v = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for key in range(prefix):
        logits = tl.sum(queries * _load_row(k, key, D, BLOCK_D), axis=1)
        values = _load_row(v, key, D, BLOCK_D)
        m_i, l_i, acc = _online_softmax(m_i, l_i, acc, logits, values, inside)
        if ZERO_LOGIT:
            seen_v += values
    for index in range(tl.load(starts + bh % heads), tl.load(starts + bh % heads + 1)):
        offset = tl.load(offsets + index)
        for side in tl.static_range(2):  # pyright: ignore[reportGeneralTypeIssues]: Triton unrolls it
            keys = rows + (2 * side - 1) * offset
            valid = inside & (keys >= prefix) & (keys < tokens) & ((side == 0) | (offset > 0))
            logits = tl.sum(queries * _load_rows(k, keys, valid, D, BLOCK_D), axis=1)
            values = _load_rows(v, keys, valid, D, BLOCK_D)
            m_i, l_i, acc = _online_softmax(m_i, l_i, acc, logits, values, valid)
            if ZERO_LOGIT:
                seen += valid.to(tl.int32)
                seen_v += values
    if ZERO_LOGIT:
        larger = tl.where(seen < tokens, tl.maximum(m_i, 0.0), m_i)
        masked = tl.where(seen < tokens, tl.exp(-larger), 0.0)
        rescale = tl.exp(m_i - larger)
        l_i = l_i * rescale + masked * (tokens - seen)
        acc = acc * rescale[:, None] + masked[:, None] * (_load_row(total_v, bh, D, BLOCK_D) - seen_v)
        m_i = larger
    empty = l_i == 0
    acc = tl.where(empty[:, None], 0.0, acc / tl.where(empty, 1.0, l_i)[:, None])
    _store_rows(out, rows, inside, acc, D, BLOCK_D)
    sums = tl.where(empty, float("-inf"), m_i + tl.log(tl.where(empty, 1.0, l_i)))
    tl.store(lse + bh * tokens + rows, sums, mask=inside)


@triton.jit
def backward_kernel(
    q, k, v, grad, lse, delta, masked, offsets, starts, grad_q, grad_k, grad_v,
    prefix_weights, prefix_d_logits, heads, tokens, prefix, scale,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Patch rows of dq, dk and dv from pairs among patches, and dq's part from prefix keys.

    The tile acts once as queries and once as keys, so every row is written by one program. `delta`, `masked`
    are `(BH, N)`; `prefix_weights`, `prefix_d_logits (BH, prefix, N)` are what patch queries send to prefix
    keys.
    """
    bh = tl.program_id(1).to(tl.int64)
    q, k, v, grad = q + bh * tokens * D, k + bh * tokens * D, v + bh * tokens * D, grad + bh * tokens * D
    grad_q, grad_k, grad_v = grad_q + bh * tokens * D, grad_k + bh * tokens * D, grad_v + bh * tokens * D
    lse, delta, masked = lse + bh * tokens, delta + bh * tokens, masked + bh * tokens
    rows = prefix + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    own_q, own_k = _load_rows(q, rows, inside, D, BLOCK_D), _load_rows(k, rows, inside, D, BLOCK_D)
    own_v, own_grad = _load_rows(v, rows, inside, D, BLOCK_D), _load_rows(grad, rows, inside, D, BLOCK_D)
    own_lse = tl.load(lse + rows, mask=inside, other=0.0)
    own_delta = tl.load(delta + rows, mask=inside, other=0.0)
    sum_q = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    sum_k = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    sum_v = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for key in range(prefix):
        keys, values = _load_row(k, key, D, BLOCK_D), _load_row(v, key, D, BLOCK_D)
        weights = tl.exp(tl.sum(own_q * keys, axis=1) * scale - own_lse)
        d_logits = weights * (tl.sum(own_grad * values, axis=1) - own_delta) * scale
        sum_q += d_logits[:, None] * keys
        if ZERO_LOGIT:
            weights -= tl.load(masked + rows, mask=inside, other=0.0)
        place = (bh * prefix + key) * tokens + rows
        tl.store(prefix_weights + place, weights, mask=inside)
        tl.store(prefix_d_logits + place, d_logits, mask=inside)
    for index in range(tl.load(starts + bh % heads), tl.load(starts + bh % heads + 1)):
        offset = tl.load(offsets + index)
        for side in tl.static_range(2):  # pyright: ignore[reportGeneralTypeIssues]: Triton unrolls it
            others = rows + (2 * side - 1) * offset
            valid = inside & (others >= prefix) & (others < tokens) & ((side == 0) | (offset > 0))
            other_k = _load_rows(k, others, valid, D, BLOCK_D)
            other_v = _load_rows(v, others, valid, D, BLOCK_D)
            weights = tl.where(valid, tl.exp(tl.sum(own_q * other_k, axis=1) * scale - own_lse), 0.0)
            d_logits = weights * (tl.sum(own_grad * other_v, axis=1) - own_delta) * scale
            sum_q += d_logits[:, None] * other_k
            other_q = _load_rows(q, others, valid, D, BLOCK_D)
            other_grad = _load_rows(grad, others, valid, D, BLOCK_D)
            other_lse = tl.load(lse + others, mask=valid, other=0.0)
            other_delta = tl.load(delta + others, mask=valid, other=0.0)
            weights = tl.where(valid, tl.exp(tl.sum(other_q * own_k, axis=1) * scale - other_lse), 0.0)
            d_logits = weights * (tl.sum(other_grad * own_v, axis=1) - other_delta) * scale
            sum_k += d_logits[:, None] * other_q
            if ZERO_LOGIT:
                weights -= tl.load(masked + others, mask=valid, other=0.0)
            sum_v += weights[:, None] * other_grad
    _store_rows(grad_q, rows, inside, sum_q, D, BLOCK_D)
    _store_rows(grad_k, rows, inside, sum_k, D, BLOCK_D)
    _store_rows(grad_v, rows, inside, sum_v, D, BLOCK_D)
