"""Matrix products inside compiled kernels, by the BLAS that PyTorch brings along.

`torch.bmm` is called from Python, and its threads meet after every product. A kernel that calls BLAS itself
keeps what belongs together in one core's cache, and its threads meet once. Inside a parallel region BLAS
computes in the calling thread alone.
"""

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from torch import Tensor

from fibo_robot.attention.backends.numba.runner import DTYPE_NAMES, computing_dtype
from fibo_robot.attention.backends.numba.vectors import STORED, operation

TRANSPOSED, AS_IT_IS = ord("T"), ord("N")
_NAMES = {"float32": "sgemm_", "float64": "dgemm_"}


@lru_cache
def product_address(dtype: str) -> int | None:
    """Where BLAS's general matrix product lies, with 32-bit sizes; None where PyTorch's BLAS shows none."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(getattr(library, _NAMES[dtype]), ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


def is_available(dtype: torch.dtype) -> bool:
    """Whether PyTorch's BLAS can be called from compiled code for tensors of this type."""
    return product_address(DTYPE_NAMES[computing_dtype(dtype)]) is not None


def separate_rows(tensor: Tensor) -> Tensor:
    """A `(B, heads, N, D)` tensor as BLAS reads it: rows of adjacent channels that do not overlap."""
    as_it_is = tensor.stride(3) == 1 and tensor.stride(2) >= tensor.shape[3]
    return tensor if as_it_is else tensor.contiguous()


@operation
def multiply(
    typingctx,
    function,
    rows,
    columns,
    depth,
    alpha,
    a,
    a_order,
    a_stride,
    b,
    b_order,
    b_stride,
    beta,
    c,
    c_stride,
):
    """C = alpha · A B + beta · C, with C `(rows, columns)` and `depth` terms in each of its sums.

    Matrices are addresses of their first rows; strides are in numbers, from one row in memory to the next. An
    order is `AS_IT_IS`, or `TRANSPOSED` where the rows in memory are the columns of A or B. `alpha` and
    `beta` are of the type that is computed in, and `function` is from :func:`product_address`.
    """
    whole, letter = ir.IntType(32), ir.IntType(8)

    def code(context, builder, signature, arguments):
        number = STORED["float64" if alpha == types.float64 else "float32"]

        def pointer_to(value, kind):
            narrow = builder.trunc(value, kind) if isinstance(kind, ir.IntType) else value
            place = cgutils.alloca_once(builder, kind)
            builder.store(narrow, place)
            return place

        address, m, n, k, factor, a, a_order, a_row, b, b_order, b_row, kept, c, c_row = arguments
        # BLAS reads columns where our rows lie, so it is asked for Cᵀ = Bᵀ Aᵀ.
        given = [
            *(pointer_to(order, letter) for order in (b_order, a_order)),
            *(pointer_to(size, whole) for size in (n, m, k)),
            pointer_to(factor, number),
            builder.inttoptr(b, number.as_pointer()),
            pointer_to(b_row, whole),
            builder.inttoptr(a, number.as_pointer()),
            pointer_to(a_row, whole),
            pointer_to(kept, number),
            builder.inttoptr(c, number.as_pointer()),
            pointer_to(c_row, whole),
        ]
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in given])
        builder.call(builder.inttoptr(address, kind.as_pointer()), given)
        return context.get_dummy_value()

    integer = types.int64
    kinds = [integer, integer, integer, integer, alpha, integer, integer, integer]
    kinds += [integer, integer, integer, alpha, integer, integer]
    return types.void(*kinds), code
