"""Operations across the lanes of registers: what the compiled kernels sum, compare and choose with.

Rows and their types are those of vectors.py.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types

from fibo_robot.attention.backends.numba.vectors import (
    INT,
    SUM,
    Row,
    call_llvm,
    computing_type,
    operation,
    splat,
)


def _lanes(builder: Any, which: Iterable[int], a: Any, b: Any = None) -> Any:
    """A vector of lanes of a, or of a and b in a row."""
    numbers = [ir.Constant(ir.IntType(32), lane) for lane in which]
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)
    return builder.shuffle_vector(a, ir.Constant(a.type, ir.Undefined) if b is None else b, mask)


@operation
def filled(typingctx, value, like):
    """A row of one number."""

    def code(context, builder, signature, arguments):
        return splat(builder, arguments[0], like.llvm)

    return like(like.scalar, like), code


@operation
def dot(typingctx, a, b):
    """The sum of the products of two rows."""

    def code(context, builder, signature, arguments):
        product = builder.fmul(*arguments, flags=SUM)
        zero = ir.Constant(a.llvm.element, 0.0)
        return call_llvm(builder, "vector.reduce.fadd", a.llvm.element, zero, product, fastmath=SUM)

    return a.scalar(a, b), code


@operation
def dots(typingctx, a, b, c, d, e, f, g, h):
    """The dot products a · b, c · d, e · f and g · h, side by side in a row of four."""
    four = Row(computing_type(a.dtype), 4)

    def code(context, builder, signature, arguments):
        def add(x, y):
            return builder.fadd(x, y, flags=SUM)

        sums = []
        for one, two in zip(arguments[::2], arguments[1::2], strict=True):
            products = builder.fmul(one, two, flags=SUM)
            blocks = range(0, products.type.count, 16)
            sums.append(reduce(add, (_lanes(builder, range(i, i + 16), products) for i in blocks)))
        # Each step puts two rows into one of the same width, whose neighbours in a quarter belong together.
        quarters = (0, 4, 8, 12)
        for order in ((0, 16, 1, 17), (0, 1, 16, 17)):
            halves = [[first + i + far for first in quarters for i in order] for far in (0, 2)]
            sums = [
                add(*(_lanes(builder, half, one, two) for half in halves))
                for one, two in zip(sums[::2], sums[1::2], strict=True)
            ]
        quarters = [_lanes(builder, range(i, i + 4), sums[0]) for i in quarters]
        return reduce(add, quarters)

    return four(a, b, c, d, e, f, g, h), code


@operation
def total(typingctx, row):
    """The sum of a row."""

    def code(context, builder, signature, arguments):
        zero = ir.Constant(row.llvm.element, 0.0)
        return call_llvm(builder, "vector.reduce.fadd", row.llvm.element, zero, arguments[0], fastmath=SUM)

    return row.scalar(row), code


@operation
def largest(typingctx, row):
    """The largest number of a row that is one."""

    def code(context, builder, signature, arguments):
        return call_llvm(builder, "vector.reduce.fmax", row.llvm.element, arguments[0])

    return row.scalar(row), code


@operation
def larger(typingctx, a, b):
    """Lane by lane the larger number of two; the other where one is NaN."""

    def code(context, builder, signature, arguments):
        return call_llvm(builder, "maxnum", a.llvm, *arguments)

    return a(a, b), code


@operation
def above(typingctx, row, bound, values, others):
    """The values whose lanes in the row are above a number, and the others in the rest."""

    def code(context, builder, signature, arguments):
        passes = builder.fcmp_unordered(">", arguments[0], splat(builder, arguments[1], row.llvm))
        return builder.select(passes, arguments[2], arguments[3])

    return row(row, row.scalar, row, row), code


@operation
def between(typingctx, first, last, row, other):
    """The row's lanes from `first` to before `last`, and a number in the others."""

    def code(context, builder, signature, arguments):
        begin, end, values, rest = arguments
        whole = ir.VectorType(INT, row.lanes)
        lane = ir.Constant(whole, list(range(row.lanes)))
        inside = builder.and_(
            builder.icmp_signed(">=", lane, splat(builder, begin, whole)),
            builder.icmp_signed("<", lane, splat(builder, end, whole)),
        )
        return builder.select(inside, values, splat(builder, rest, row.llvm))

    return row(types.int64, types.int64, row, row.scalar), code
