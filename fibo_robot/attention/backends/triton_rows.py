"""What the Triton kernels share: rows of strided tensors, in and out.

A tensor `(B, heads, N, D)` travels as a tuple: pointer, strides of batch, head and row; its columns are
contiguous. Tiles are padded to BLOCK_D columns of zeros.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(x · log2 e): the GPU has only exp2


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
def dot_rows(one, other):
    """Products of two tiles row by row, or of a tile with one row, in float32."""
    return tl.sum(one.to(tl.float32) * other.to(tl.float32), axis=1)


@triton.jit
def sum_of_rows(base, first, count, D: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr):
    """Sum of `count` contiguous rows of D, from row `first` on: `(BLOCK_D,)`."""
    total = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, count, SPLITS):
        places = start + tl.arange(0, SPLITS)
        total += tl.sum(load_rows(base, D, first + places, places < count, D, BLOCK_D), axis=0)
    return total
