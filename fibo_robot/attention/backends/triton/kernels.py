"""The Triton kernels of the forward pass; cuda.py calls them, kernels_backward.py holds the others.

A program owns a tile of consecutive patch tokens of one head. For each offset it meets the tile shifted by
that offset, which is contiguous in memory, once before and once behind. Offsets ascend, so the shifted tiles
of near ones, of both sides, share most of their rows and find them in the cache. Everything is computed in
float32.

Prefix tokens are slots of the same kernel: as keys they are one more pair for every query of the tile, and as
queries they meet the tile's own rows. The latter gives each prefix query a partial softmax per tile, which
`forward_prefix_kernel` puts together.

A tensor `(B, heads, N, D)` travels as a tuple: pointer, strides of batch, head and row; its columns are
contiguous. Tiles are padded to BLOCK_D columns of zeros.

Names are those of online softmax: `m_i` a query's largest logit (here in powers of two), `l_i` its
denominator, `acc` its sum of weighted values.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(x · log2 e): the GPU has only exp2
PRECISION = tl.constexpr("tf32x3")  # of products in float32: three of TF32, on the tensor cores


@triton.jit
def place_of(count, heads):
    """Where a program stands that is one of `count` for its head.

    Returns its number among these; and, 64 bits wide, its head among all of the batch, its batch and head.
    """
    number, bh = tl.program_id(0) % count, (tl.program_id(0) // count).to(tl.int64)
    return number, bh, bh // heads, bh % heads


@triton.jit
def head_of(tensor, batch, head):
    """A pointer to the first row of one head; `batch` and `head` are 64 bits wide."""
    return tensor[0] + batch * tensor[1] + head * tensor[2]


@triton.jit
def load_rows(base, stride, rows, valid, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """`(rows, BLOCK_D)` as stored; a row that is not valid is zeros and not read."""
    columns = tl.arange(0, BLOCK_D)
    places = base + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    if BLOCK_D == D:
        return tl.load(places, mask=valid[:, None], other=0.0)
    return tl.load(places, mask=valid[:, None] & (columns < D)[None, :], other=0.0)


@triton.jit
def store_rows(base, stride, rows, valid, values, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows, rounded to the tensor's own type."""
    columns = tl.arange(0, BLOCK_D)
    places = base + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    mask = valid[:, None] & (columns < D)[None, :]
    tl.store(places, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def load_row(base, stride, row, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """One row `(BLOCK_D,)` in float32."""
    columns = tl.arange(0, BLOCK_D)
    return tl.load(base + row * stride + columns, mask=columns < D, other=0.0).to(tl.float32)


@triton.jit
def store_row(base, stride, row, values, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """One row, rounded to the tensor's own type."""
    columns = tl.arange(0, BLOCK_D)
    tl.store(base + row * stride + columns, values.to(base.dtype.element_ty), mask=columns < D)


@triton.jit
def dot_rows(one, other) -> tl.tensor:
    """Products of two tiles row by row, or of a tile with one row, in float32."""
    return tl.sum(one.to(tl.float32) * other.to(tl.float32), axis=1)  # pyright: ignore[reportReturnType]


@triton.jit
def dot(one, other) -> tl.tensor:
    """The product of two rows in float32."""
    return tl.sum(one * other, axis=0)  # pyright: ignore[reportReturnType]


@triton.jit
def sum_of_rows(base, first, count, D: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr):
    """Sum of `count` contiguous rows of D, from row `first` on: `(BLOCK_D,)`."""
    total = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, count, SPLITS):
        places = start + tl.arange(0, SPLITS)
        total += tl.sum(load_rows(base, D, first + places, places < count, D, BLOCK_D), axis=0)
    return total


@triton.jit
def _finite(m_i):
    """What logits are compared with: 0 in place of -inf, where there was no key so far."""
    return tl.where(m_i == float("-inf"), 0.0, m_i)


@triton.jit
def forward_kernel(
    q, k, v, out, total_v, offsets, starts, lse, parts, heads, tokens, prefix, scale,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Patch rows of `out` and `lse (BH, N)`, and the prefix queries' softmax over each tile.

    `total_v (BH, D)` is the sum of v. `parts` holds, one behind the other, weighted values `(BH, prefix,
    tiles, D)`, largest logits and denominators `(BH, prefix, tiles)`.
    """
    tiles = tl.cdiv(tokens - prefix, BLOCK)
    count = tl.num_programs(0).to(tl.int64) * prefix
    tile, bh, batch, head = place_of(tiles, heads)
    q_head, k_head, v_head = head_of(q, batch, head), head_of(k, batch, head), head_of(v, batch, head)
    rows = prefix + tile * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    queries = load_rows(q_head, q[3], rows, inside, D, BLOCK_D)
    factor = scale * LOG2_E  # of products, not of q: the backward pass must find the same logits bit by bit
    m_i = tl.zeros([BLOCK], tl.float32) - float("inf")
    l_i = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    seen = tl.zeros([BLOCK], tl.int32) + prefix
    seen_v = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    if prefix > 0:
        own_k = load_rows(k_head, k[3], rows, inside, D, BLOCK_D)
        own_v = load_rows(v_head, v[3], rows, inside, D, BLOCK_D)
        for token in range(prefix):
            # The prefix token as a query of this tile.
            query = load_row(q_head, q[3], token, D, BLOCK_D)[None, :]
            logits = tl.where(inside, dot_rows(own_k, query) * factor, float("-inf"))
            largest = tl.max(logits, axis=0)
            weights = tl.exp2(logits - _finite(largest))
            place = (bh * prefix + token) * tiles + tile
            store_row(parts, D, place, tl.sum(weights[:, None] * own_v, axis=0), D, BLOCK_D)
            tl.store(parts + D * count + place, largest)
            tl.store(parts + (D + 1) * count + place, tl.sum(weights, axis=0))
            # And as a key.
            logits = dot_rows(queries, load_row(k_head, k[3], token, D, BLOCK_D)[None, :]) * factor
            values = load_row(v_head, v[3], token, D, BLOCK_D)[None, :]
            larger = tl.maximum(m_i, logits)
            rescale, weights = tl.exp2(m_i - _finite(larger)), tl.exp2(logits - _finite(larger))
            l_i = l_i * rescale + weights
            acc = acc * rescale[:, None] + weights[:, None] * values
            m_i = larger
            if ZERO_LOGIT:
                seen_v += values
    start, end = tl.load(starts + head), tl.load(starts + head + 1)
    for index in tl.range(start, end, num_stages=1):  # pyright: ignore[reportGeneralTypeIssues]
        offset = tl.load(offsets + index)
        before, behind = rows - offset, rows + offset
        sees_before = inside & (before >= prefix)
        sees_behind = inside & (behind < tokens) & (offset > 0)
        k_before = load_rows(k_head, k[3], before, sees_before, D, BLOCK_D)
        k_behind = load_rows(k_head, k[3], behind, sees_behind, D, BLOCK_D)
        v_before = load_rows(v_head, v[3], before, sees_before, D, BLOCK_D).to(tl.float32)
        v_behind = load_rows(v_head, v[3], behind, sees_behind, D, BLOCK_D).to(tl.float32)
        logits_before = tl.where(sees_before, dot_rows(queries, k_before) * factor, float("-inf"))
        logits_behind = tl.where(sees_behind, dot_rows(queries, k_behind) * factor, float("-inf"))
        # Both keys at once: the sums so far are rescaled once for two.
        larger = tl.maximum(m_i, tl.maximum(logits_before, logits_behind))
        reference = _finite(larger)
        rescale = tl.exp2(m_i - reference)
        before_weights, behind_weights = (
            tl.exp2(logits_before - reference),
            tl.exp2(logits_behind - reference),
        )
        l_i = l_i * rescale + (before_weights + behind_weights)
        acc = acc * rescale[:, None] + before_weights[:, None] * v_before + behind_weights[:, None] * v_behind
        m_i = larger
        if ZERO_LOGIT:
            seen += sees_before.to(tl.int32) + sees_behind.to(tl.int32)
            seen_v += v_before + v_behind
    if ZERO_LOGIT:
        # A masked pair's logit is 0; a query without one adds nothing.
        larger = tl.where(seen < tokens, tl.maximum(m_i, 0.0), m_i)
        masked = tl.where(seen < tokens, tl.exp2(-larger), 0.0)
        rescale = tl.exp2(m_i - larger)
        l_i = l_i * rescale + masked * (tokens - seen)
        masked_v = load_row(total_v, D, bh, D, BLOCK_D)[None, :] - seen_v
        acc = acc * rescale[:, None] + masked[:, None] * masked_v
        m_i = larger
    empty = l_i == 0
    l_i = tl.where(empty, 1.0, l_i)
    out_head = head_of(out, batch, head)
    store_rows(out_head, out[3], rows, inside, acc / l_i[:, None], D, BLOCK_D)
    sums = tl.where(empty, float("-inf"), (m_i + tl.log2(l_i)) / LOG2_E)
    tl.store(lse + bh * tokens + rows, sums, mask=inside)


@triton.jit
def forward_prefix_kernel(
    q, k, v, out, lse, parts, heads, tokens, prefix, tiles, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Prefix rows of `out` and `lse`: one program each, over the prefix's own keys and all tiles' parts."""
    token, bh, batch, head = place_of(prefix, heads)
    k_head, v_head = head_of(k, batch, head), head_of(v, batch, head)
    query = load_row(head_of(q, batch, head), q[3], token, D, BLOCK_D)
    factor = scale * LOG2_E
    m_i, l_i = float("-inf"), 0.0
    acc = tl.zeros([BLOCK_D], tl.float32)
    for key in range(prefix):
        logit = dot(query, load_row(k_head, k[3], key, D, BLOCK_D)) * factor
        larger = tl.maximum(m_i, logit)
        rescale, weight = tl.exp2(m_i - _finite(larger)), tl.exp2(logit - _finite(larger))
        l_i = l_i * rescale + weight
        acc = acc * rescale + weight * load_row(v_head, v[3], key, D, BLOCK_D)
        m_i = larger
    first, count = (bh * prefix + token) * tiles, tl.num_programs(0).to(tl.int64) * tiles
    for start in range(0, tiles, SPLITS):
        places = start + tl.arange(0, SPLITS)
        there = places < tiles
        largest = tl.load(parts + D * count + first + places, mask=there, other=float("-inf"))
        larger = tl.maximum(m_i, tl.max(largest, axis=0))
        rescale, factors = tl.exp2(m_i - _finite(larger)), tl.exp2(largest - _finite(larger))
        sums = tl.load(parts + (D + 1) * count + first + places, mask=there, other=0.0)
        l_i = l_i * rescale + tl.sum(factors * sums, axis=0)
        weighted = load_rows(parts, D, first + places, there, D, BLOCK_D)
        acc = acc * rescale + tl.sum(factors[:, None] * weighted, axis=0)
        m_i = larger
    store_row(head_of(out, batch, head), out[3], token, acc / l_i, D, BLOCK_D)
    tl.store(lse + bh * tokens + token, (m_i + tl.log2(l_i)) / LOG2_E)
