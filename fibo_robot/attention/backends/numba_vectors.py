"""Rows of a tensor in vector registers: what the compiled kernels compute with.

A kernel reads a row of channels from its address, whatever the tensor's strides, keeps it in registers, and
writes it back once. numba's own loops over arrays do neither, so the operations are LLVM's, one intrinsic
each.
Half precision becomes float32 as it is read, and is rounded once, to even, as it is written.

What to compile is in a row's type, `Row(dtype, lanes)`: helpers take a row called `like` and are compiled for
it.
"""

from collections.abc import Callable
from math import factorial, log
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

FLOAT, DOUBLE, INT = ir.FloatType(), ir.DoubleType(), ir.IntType(64)
STORED: dict[str, ir.Type] = {"float32": FLOAT, "float64": DOUBLE, "bfloat16": ir.IntType(16)}
ITEMSIZE = {"float32": 4, "float64": 8, "bfloat16": 2}
SUM = ("reassoc", "contract", "nsz")  # sums may be reordered and fused; NaN and infinity keep their meaning
# Of the series of exp on [-ln 2 / 2, ln 2 / 2]: 5e-9 and 4e-18 are left.
TERMS = {"float32": 7, "float64": 13}


def computing_type(dtype: str) -> str:
    """What numbers of a stored type are computed in."""
    return "float64" if dtype == "float64" else "float32"


class Row(types.Type):
    """So many numbers in registers; `dtype` is that of the memory which they are read from."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Row({dtype}, {lanes})")

    @property
    def computing(self) -> str:
        return computing_type(self.dtype)

    @property
    def scalar(self) -> types.Type:
        return types.float64 if self.computing == "float64" else types.float32

    @property
    def llvm(self) -> ir.VectorType:
        return ir.VectorType(DOUBLE if self.computing == "float64" else FLOAT, self.lanes)

    @property
    def stored(self) -> ir.VectorType:
        return ir.VectorType(STORED[self.dtype], self.lanes)


@register_model(Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Row) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def operation(code: Callable[..., Any]) -> Callable[..., Any]:
    """An intrinsic; kernels call it without the first argument, the typing context."""
    return intrinsic(code)


def splat(builder: Any, scalar: Any, vector_type: ir.VectorType) -> Any:
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector_type.count), None)
    return builder.shuffle_vector(first, undefined, mask)


def _constant(kind: ir.Type, value: float) -> ir.Constant:
    """A number, in all lanes of a vector type."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def call_llvm(
    builder: Any, name: str, result: ir.Type, *arguments: Any, fastmath: tuple[str, ...] = ()
) -> Any:
    """Call an LLVM intrinsic that is overloaded on its last argument's type, a vector."""
    kind = arguments[-1].type
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(result, [argument.type for argument in arguments]),
        f"llvm.{name}.v{kind.count}{kind.element.intrinsic_name}",
    )
    return builder.call(function, arguments, fastmath=fastmath)


def _wide(kind: ir.Type, element: ir.Type) -> ir.Type:
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


@operation
def zero_row(typingctx, dtype, lanes):
    """A row of zeros; both arguments are constants: a key of ITEMSIZE and the number of lanes."""
    if not isinstance(dtype, types.StringLiteral) or not isinstance(lanes, types.IntegerLiteral):
        return None
    row = Row(dtype.literal_value, lanes.literal_value)
    return row(dtype, lanes), lambda context, builder, signature, arguments: ir.Constant(row.llvm, None)


@operation
def load(typingctx, address, like):
    """The row that lies at this address."""

    def code(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], like.stored.as_pointer())
        stored = builder.load(pointer, align=ITEMSIZE[like.dtype])
        if like.dtype != "bfloat16":
            return stored
        wide = ir.VectorType(ir.IntType(32), like.lanes)
        return builder.bitcast(builder.shl(builder.zext(stored, wide), _constant(wide, 16)), like.llvm)

    return like(types.int64, like), code


@operation
def store(typingctx, address, row):
    """Write the row to this address."""

    def code(context, builder, signature, arguments):
        value = arguments[1]
        if row.dtype == "bfloat16":
            wide = ir.VectorType(ir.IntType(32), row.lanes)
            bits = builder.bitcast(value, wide)
            odd = builder.and_(builder.lshr(bits, _constant(wide, 16)), _constant(wide, 1))
            rounded = builder.add(bits, builder.add(odd, _constant(wide, 0x7FFF)))
            no_number = builder.fcmp_unordered("uno", value, value)
            rounded = builder.select(no_number, _constant(wide, 0x7FC00000), rounded)
            value = builder.trunc(builder.lshr(rounded, _constant(wide, 16)), row.stored)
        pointer = builder.inttoptr(arguments[0], row.stored.as_pointer())
        builder.store(value, pointer, align=ITEMSIZE[row.dtype])
        return context.get_dummy_value()

    return types.void(types.int64, row), code


@operation
def fetch(typingctx, address, like):
    """Have the row that lies at this address brought into the cache; there may be none."""

    def code(context, builder, signature, arguments):
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        flags = [ir.Constant(flag, value) for value in (0, 3, 1)]  # to read, to be kept, data
        for line in range(0, ITEMSIZE[like.dtype] * like.lanes, 64):
            place = builder.add(arguments[0], ir.Constant(INT, line))
            builder.call(function, [builder.inttoptr(place, byte), *flags])
        return context.get_dummy_value()

    return types.void(types.int64, like), code


@operation
def stored(typingctx, row, like):
    """The row as numbers that are stored as those of `like`."""

    def code(context, builder, signature, arguments):
        return arguments[0]

    return like(row, like), code


@operation
def peek(typingctx, address, like):
    """The number at this address, in the type that the row `like` computes in."""

    def code(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], like.llvm.element.as_pointer()))

    return like.scalar(types.int64, like), code


@operation
def poke(typingctx, address, value):
    """Write one number to this address."""

    def code(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], arguments[1].type.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, value), code


@operation
def integer_at(typingctx, address, index):
    """Entry `index` of the 64-bit integers at this address."""

    def code(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.load(builder.gep(pointer, [arguments[1]], source_etype=INT))

    return types.int64(types.int64, types.int64), code


@operation
def shifted(typingctx, row, amount):
    """A number added to every lane."""

    def code(context, builder, signature, arguments):
        return builder.fadd(arguments[0], splat(builder, arguments[1], row.llvm))

    return row(row, row.scalar), code


@operation
def product(typingctx, a, b):
    """Lane by lane."""

    def code(context, builder, signature, arguments):
        return builder.fmul(*arguments)

    return a(a, b), code


@operation
def scaled(typingctx, factor, row):
    """A number times a row."""

    def code(context, builder, signature, arguments):
        return builder.fmul(splat(builder, arguments[0], row.llvm), arguments[1])

    return row(row.scalar, row), code


@operation
def add_scaled(typingctx, total, factor, row):
    """total + factor · row."""

    def code(context, builder, signature, arguments):
        product = builder.fmul(splat(builder, arguments[1], row.llvm), arguments[2], flags=SUM)
        return builder.fadd(arguments[0], product, flags=SUM)

    return total(total, row.scalar, row), code


@operation
def quotient(typingctx, a, b):
    """Lane by lane."""

    def code(context, builder, signature, arguments):
        return builder.fdiv(*arguments)

    return a(a, b), code


@operation
def positive_float(typingctx, bits):
    """The float32 with these bits."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(builder.trunc(arguments[0], ir.IntType(32)), FLOAT)

    return types.float32(types.int64), code


@operation
def exponential(typingctx, x):
    """e to the x for x up to 80, of a row or of one number: within 2 units in the last place.

    x = n ln 2 + r with |r| <= ln 2 / 2, and the series of e^r. Below the smallest normal number it is 0.
    """
    number = Row("float64" if x == types.float64 else "float32", 1) if isinstance(x, types.Float) else x

    def code(context, builder, signature, arguments):
        double = number.computing == "float64"
        kind, given = arguments[0].type, arguments[0]
        bits, mantissa, bias = (64, 52, 1023) if double else (32, 23, 127)
        whole = _wide(kind, ir.IntType(bits))
        lowest = _constant(kind, -708.0 if double else -87.0)
        below = builder.fcmp_ordered("<", given, lowest)
        safe = builder.select(below, lowest, given)
        # Adding 1.5 · 2^mantissa rounds to an integer, which then stands in the lowest bits.
        magic = _constant(kind, 1.5 * 2**mantissa)
        shifted = builder.fadd(builder.fmul(safe, _constant(kind, 1 / log(2))), magic)
        n = builder.fsub(shifted, magic)
        # ln 2 in two parts, the first short enough that n times it is exact.
        first = 0.693145751953125 if not double else 0.6931471803691238
        rest = log(2) - first if not double else 1.9082149292705877e-10
        r = builder.fsub(safe, builder.fmul(n, _constant(kind, first)), flags=("contract",))
        r = builder.fsub(r, builder.fmul(n, _constant(kind, rest), flags=("contract",)), flags=("contract",))
        terms = TERMS[number.computing]
        series = _constant(kind, 1 / factorial(terms))
        for power in reversed(range(terms)):
            product = builder.fmul(series, r, flags=("contract",))
            series = builder.fadd(product, _constant(kind, 1 / factorial(power)), flags=("contract",))
        integer = builder.bitcast(shifted, whole)
        exponent = builder.shl(builder.add(integer, _constant(whole, bias)), _constant(whole, mantissa))
        result = builder.fmul(series, builder.bitcast(exponent, kind))
        return builder.select(below, _constant(kind, 0.0), result)

    return x(x), code


@operation
def number(typingctx, value, like):
    """A number in the type that the row `like` computes in."""

    def code(context, builder, signature, arguments):
        return context.cast(builder, arguments[0], value, like.scalar)

    return like.scalar(value, like), code


@operation
def fetch_add(typingctx, address, amount):
    """Add to the 64-bit integer at this address, as one step for all threads; what it was before.

    What a thread wrote before is seen by those that read the sum of it.
    """

    def code(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.atomic_rmw("add", pointer, arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), code
