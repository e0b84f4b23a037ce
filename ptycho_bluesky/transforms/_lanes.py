"""Sixteen numbers at a time: a vector type for numba, so that nothing depends on what the compiler makes of a loop.

A :data:`lanes` value is 16 float32 numbers, one AVX-512 register (LLVM splits it where registers are shorter).
Arithmetic is written as with single numbers; :func:`load` and :func:`store` go to and from C-contiguous arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = [
    "LANES",
    "VECTOR",
    "aligned",
    "emitted",
    "highest",
    "lanes",
    "larger",
    "load",
    "logarithm",
    "root",
    "splat",
    "store",
    "total",
    "transpose",
    "transpose_rows",
    "where_bad",
]

LANES = 16

emitted: Callable[[Callable[..., Any]], Any] = intrinsic
"""Decorates what returns a signature and a function that writes LLVM instructions, for use in compiled functions."""

REAL = ir.FloatType()
VECTOR = ir.VectorType(REAL, LANES)
ALIGNMENT = 4
"""Bytes that a load may count on; :func:`aligned` memory is at 64 and quicker, yet a patch begins anywhere."""


class _Lanes(types.Type):  # type: ignore[misc] # numba has no types
    def __init__(self) -> None:
        super().__init__(name="lanes")


lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


def _lower(function: Any, instruction: str) -> None:
    class _Template(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(lanes, lanes, lanes)]  # noqa: RUF012 - numba's own idiom

    infer_global(function)(_Template)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return getattr(builder, instruction)(*args)

    lower_builtin(function, lanes, lanes)(emit)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _lower(_function, _instruction)


def aligned(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return zeros of `shape`, float32, in memory from a multiple of 64 bytes on: no vector crosses a cache line."""
    count = int(np.prod(shape))
    memory = np.zeros(count + LANES, np.float32)
    start = (-memory.ctypes.data // 4) % LANES
    return memory[start : start + count].reshape(shape)


def spread(builder: ir.IRBuilder, value: Any) -> Any:
    """Emit 16 copies of a value."""
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def address(context: Any, builder: ir.IRBuilder, kinds: Sequence[Any], array: Any, index: Any) -> Any:
    """Emit the address of ``array[index]``; kinds are numba's types of both."""
    made = context.make_array(kinds[0])(context, builder, array)
    places = cgutils.unpack_tuple(builder, index, len(kinds[1]))
    return cgutils.get_item_pointer(context, builder, kinds[0], made, places)


def at(builder: ir.IRBuilder, pointer: Any, offset: Any = None) -> Any:
    """Emit the load of a vector, `offset` numbers after a pointer."""
    moved = pointer if offset is None else builder.gep(pointer, [offset])
    return builder.load(builder.bitcast(moved, VECTOR.as_pointer()), align=ALIGNMENT)


def put(builder: ir.IRBuilder, value: Any, pointer: Any, offset: Any = None) -> None:
    """Emit the store of a vector, `offset` numbers after a pointer."""
    moved = pointer if offset is None else builder.gep(pointer, [offset])
    builder.store(value, builder.bitcast(moved, VECTOR.as_pointer()), align=ALIGNMENT)


@emitted
def load(_: Any, array: Any, index: Any) -> Any:
    """Return the 16 numbers from ``array[index]`` on."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return at(builder, address(context, builder, sig.args, *args))

    return lanes(array, index), emit


@emitted
def store(_: Any, array: Any, index: Any, value: Any) -> Any:
    """Write 16 numbers from ``array[index]`` on."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        put(builder, args[2], address(context, builder, sig.args, *args[:2]))
        return context.get_dummy_value()

    return types.void(array, index, value), emit


@emitted
def splat(_: Any, number: Any) -> Any:
    """Return a float32 number 16 times."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return spread(builder, context.cast(builder, args[0], sig.args[0], types.float32))

    return lanes(number), emit


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@emitted
def root(_: Any, value: Any) -> Any:
    """Return the square roots."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return _call(builder, f"llvm.sqrt.v{LANES}f32", VECTOR, args)

    return lanes(value), emit


@emitted
def logarithm(_: Any, value: Any) -> Any:
    """Return the natural logarithms of positive, finite numbers, to the last bit or two of float32.

    ``log m = 2 artanh((m - 1) / (m + 1))`` for the mantissa within a factor of ``sqrt(2)`` of 1, four terms of the
    series after the first. LLVM's own logarithm is called number by number.
    """

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        words = ir.VectorType(ir.IntType(32), LANES)

        def number(real: float) -> ir.Constant:
            return ir.Constant(VECTOR, [float(np.float32(real))] * LANES)

        bits = builder.bitcast(args[0], words)
        lowest = ir.Constant(words, [int(np.float32(np.sqrt(0.5)).view(np.int32))] * LANES)
        exponent = builder.ashr(builder.sub(bits, lowest), ir.Constant(words, [23] * LANES))
        mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, ir.Constant(words, [23] * LANES))), VECTOR)
        one = number(1)
        ratio = builder.fdiv(builder.fsub(mantissa, one), builder.fadd(mantissa, one))
        square, series = builder.fmul(ratio, ratio), number(2 / 9)
        for term in (2 / 7, 2 / 5, 2 / 3, 2):
            series = builder.fadd(builder.fmul(series, square), number(term))
        whole = builder.fmul(builder.sitofp(exponent, VECTOR), number(np.log(2)))
        return builder.fadd(whole, builder.fmul(series, ratio))

    return lanes(value), emit


def _larger(builder: ir.IRBuilder, one: Any, other: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


@emitted
def larger(_: Any, one: Any, other: Any) -> Any:
    """Return the larger of each pair."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return _larger(builder, *args)

    return lanes(one, other), emit


@emitted
def where_bad(_: Any, measured: Any, bad: Any, good: Any) -> Any:
    """Return `bad` where `measured` is negative, else `good`."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], ir.Constant(VECTOR, [0.0] * LANES)), *args[1:])

    return lanes(measured, bad, good), emit


def _folded(builder: ir.IRBuilder, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Emit the join of all 16 numbers."""
    width = LANES
    while width > 1:
        width //= 2
        value = join(value, _shuffled(builder, value, value, [(lane + width) % LANES for lane in range(LANES)]))
    return builder.extract_element(value, ir.IntType(32)(0))


@emitted
def highest(_: Any, value: Any) -> Any:
    """Return the largest of the 16 numbers, float32."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return _folded(builder, args[0], lambda one, other: _larger(builder, one, other))

    return types.float32(value), emit


@emitted
def total(_: Any, value: Any) -> Any:
    """Return the sum of the 16 numbers, float32."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return _folded(builder, args[0], builder.fadd)

    return types.float32(value), emit


def _shuffled(builder: ir.IRBuilder, one: Any, other: Any, places: Sequence[int]) -> Any:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(places)))


def _transposed(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Emit the transpose of 16 vectors: blocks of 8, 4, 2 and 1 off the diagonal change places."""
    for width in (8, 4, 2, 1):
        for row in range(LANES):
            if not row & width:
                one, other = rows[row], rows[row + width]
                first = [lane if not lane & width else LANES + lane - width for lane in range(LANES)]
                rows[row] = _shuffled(builder, one, other, first)
                second = [lane + width if not lane & width else LANES + lane for lane in range(LANES)]
                rows[row + width] = _shuffled(builder, one, other, second)
    return rows


@emitted
def transpose(_: Any, source: Any, here: Any, stride: Any, target: Any, there: Any, target_stride: Any) -> Any:
    """Write to ``target[there]`` the transpose of the 16 x 16 numbers at ``source[here]``, rows a stride apart."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        first = address(context, builder, sig.args[:2], *args[:2])
        rows = [at(builder, first, builder.mul(args[2], args[2].type(row))) for row in range(LANES)]
        last = address(context, builder, sig.args[3:5], *args[3:5])
        for row, value in enumerate(_transposed(builder, rows)):
            put(builder, value, last, builder.mul(args[5], args[5].type(row)))
        return context.get_dummy_value()

    return types.void(source, here, types.intp, target, there, types.intp), emit


@emitted
def transpose_rows(_: Any, source: Any, here: Any, stride: Any, rows: Any, target: Any, there: Any) -> Any:
    """Write the transpose of 16 x 16 numbers: row `k` begins ``rows[k] * stride`` numbers after ``source[here]``.

    Row k of the transpose goes to row ``there[k]`` of `target` (any, 16); `rows` and `there` hold 16 int64 or more.
    """

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        kinds, word = sig.args, args[2].type
        chosen, placed = (context.make_array(kinds[n])(context, builder, args[n]).data for n in (3, 5))

        def entry(vector: Any, number: int, step: Any) -> Any:
            return builder.mul(builder.load(builder.gep(vector, [word(number)])), step)

        first = address(context, builder, kinds[:2], *args[:2])
        values = [at(builder, first, entry(chosen, row, args[2])) for row in range(LANES)]
        matrix = context.make_array(kinds[4])(context, builder, args[4]).data
        for row, value in enumerate(_transposed(builder, values)):
            put(builder, value, matrix, entry(placed, row, word(LANES)))
        return context.get_dummy_value()

    return types.void(source, here, types.intp, rows, target, there), emit
