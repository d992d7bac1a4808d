"""The Triton kernels of the CUDA backend; triton_cuda.py calls them.

A program owns a tile of consecutive patch tokens of one head. For each offset it meets the tile shifted by
that offset, which is contiguous in memory, once before and once behind. `q`, `k`, `v` and all of their shape
are contiguous `(BH, N, D)`; everything is computed in float32. All tiles are padded to BLOCK_D columns.
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
def _online_softmax(highest, denominator, total, logits, values, valid, ZERO_LOGIT: tl.constexpr):
    """Add one key per row to the running softmax; in zero_logit mode, its weight beyond e⁰."""
    logits = tl.where(valid, logits, float("-inf"))
    new = tl.maximum(highest, logits)
    reference = tl.where(new == float("-inf"), 0.0, new)  # a row without keys so far
    rescale = tl.exp(highest - reference)
    weights = tl.exp(logits - reference)
    if ZERO_LOGIT:
        weights = tl.where(valid, weights - tl.exp(-reference), 0.0)
    return new, denominator * rescale + weights, total * rescale[:, None] + weights[:, None] * values


@triton.jit
def forward_kernel(
    q, k, v, total_v, offsets, starts, out, lse, heads, tokens, prefix, scale,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Patch rows of `out (BH, N, D)` and `lse (BH, N)`."""
    bh = tl.program_id(1).to(tl.int64)
    q, k, v, out = q + bh * tokens * D, k + bh * tokens * D, v + bh * tokens * D, out + bh * tokens * D
    rows = prefix + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    queries = _load_rows(q, rows, inside, D, BLOCK_D) * scale
    highest = tl.zeros([BLOCK], tl.float32)
    if not ZERO_LOGIT:
        highest = highest - float("inf")
    denominator = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for key in range(prefix):
        logits = tl.sum(queries * _load_row(k, key, D, BLOCK_D), axis=1)
        values = _load_row(v, key, D, BLOCK_D)
        highest, denominator, total = _online_softmax(
            highest, denominator, total, logits, values, inside, ZERO_LOGIT
        )
    for index in range(tl.load(starts + bh % heads), tl.load(starts + bh % heads + 1)):
        offset = tl.load(offsets + index)
        for side in tl.static_range(2):
            keys = rows + (2 * side - 1) * offset
            valid = inside & (keys >= prefix) & (keys < tokens) & ((side == 0) | (offset > 0))
            logits = tl.sum(queries * _load_rows(k, keys, valid, D, BLOCK_D), axis=1)
            values = _load_rows(v, keys, valid, D, BLOCK_D)
            highest, denominator, total = _online_softmax(
                highest, denominator, total, logits, values, valid, ZERO_LOGIT
            )
    if ZERO_LOGIT:
        masked = tl.exp(-highest)
        denominator += masked * tokens
        total += masked[:, None] * _load_row(total_v, bh, D, BLOCK_D)
    empty = denominator == 0
    total = tl.where(empty[:, None], 0.0, total / tl.where(empty, 1.0, denominator)[:, None])
    _store_rows(out, rows, inside, total, D, BLOCK_D)
    sums = tl.where(empty, float("-inf"), highest + tl.log(tl.where(empty, 1.0, denominator)))
    tl.store(lse + bh * tokens + rows, sums, mask=inside)


@triton.jit
def backward_kernel(
    q, k, v, grad, lse, means, offsets, starts, grad_q, grad_k, grad_v, prefix_weights, prefix_logits,
    heads, tokens, prefix, scale,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Patch rows of dq, dk and dv from pairs among patches, and dq's part from prefix keys.

    The tile acts once as queries and once as keys, so every row is written by one program. `means (BH, N)` is
    grad · out. `prefix_weights`, `prefix_logits (BH, prefix, N)` are what patch queries send to prefix keys.
    """
    bh = tl.program_id(1).to(tl.int64)
    q, k, v, grad = q + bh * tokens * D, k + bh * tokens * D, v + bh * tokens * D, grad + bh * tokens * D
    grad_q, grad_k, grad_v = grad_q + bh * tokens * D, grad_k + bh * tokens * D, grad_v + bh * tokens * D
    lse, means = lse + bh * tokens, means + bh * tokens
    rows = prefix + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    own_q, own_k = _load_rows(q, rows, inside, D, BLOCK_D), _load_rows(k, rows, inside, D, BLOCK_D)
    own_v, own_grad = _load_rows(v, rows, inside, D, BLOCK_D), _load_rows(grad, rows, inside, D, BLOCK_D)
    own_lse = tl.load(lse + rows, mask=inside, other=0.0)
    own_mean = tl.load(means + rows, mask=inside, other=0.0)
    sum_q = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    sum_k = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    sum_v = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for key in range(prefix):
        keys, values = _load_row(k, key, D, BLOCK_D), _load_row(v, key, D, BLOCK_D)
        weights = tl.exp(tl.sum(own_q * keys, axis=1) * scale - own_lse)
        logits = weights * (tl.sum(own_grad * values, axis=1) - own_mean) * scale
        sum_q += logits[:, None] * keys
        if ZERO_LOGIT:
            weights -= tl.exp(-own_lse)
        place = (bh * prefix + key) * tokens + rows
        tl.store(prefix_weights + place, weights, mask=inside)
        tl.store(prefix_logits + place, logits, mask=inside)
    for index in range(tl.load(starts + bh % heads), tl.load(starts + bh % heads + 1)):
        offset = tl.load(offsets + index)
        for side in tl.static_range(2):
            others = rows + (2 * side - 1) * offset
            valid = inside & (others >= prefix) & (others < tokens) & ((side == 0) | (offset > 0))
            other_k = _load_rows(k, others, valid, D, BLOCK_D)
            other_v = _load_rows(v, others, valid, D, BLOCK_D)
            weights = tl.where(valid, tl.exp(tl.sum(own_q * other_k, axis=1) * scale - own_lse), 0.0)
            logits = weights * (tl.sum(own_grad * other_v, axis=1) - own_mean) * scale
            sum_q += logits[:, None] * other_k
            other_q = _load_rows(q, others, valid, D, BLOCK_D)
            other_grad = _load_rows(grad, others, valid, D, BLOCK_D)
            other_lse = tl.load(lse + others, mask=valid, other=0.0)
            other_mean = tl.load(means + others, mask=valid, other=0.0)
            weights = tl.where(valid, tl.exp(tl.sum(other_q * own_k, axis=1) * scale - other_lse), 0.0)
            logits = weights * (tl.sum(other_grad * own_v, axis=1) - other_mean) * scale
            sum_k += logits[:, None] * other_q
            if ZERO_LOGIT:
                weights -= tl.where(valid, tl.exp(-other_lse), 0.0)
            sum_v += weights[:, None] * other_grad
    _store_rows(grad_q, rows, inside, sum_q, D, BLOCK_D)
    _store_rows(grad_k, rows, inside, sum_k, D, BLOCK_D)
    _store_rows(grad_v, rows, inside, sum_v, D, BLOCK_D)
