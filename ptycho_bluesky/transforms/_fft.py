"""A Fourier transform for the inside of a fused pass: in place, 16 columns at once, no reordering.

A strip holds 16 neighbouring columns of a frame, (rows, 2, 16) float32: of each row the real parts, then the imaginary
ones. All lanes do the same, so that the transform along a column needs no shuffles, and a strip of 128 rows is 16 kB
and stays in the first-level cache. Forward is decimation in frequency (Gentleman and Sande, 1966) and leaves the
spectrum in the order of :attr:`Plan.order`; the inverse is decimation in time (Cooley and Tukey, Math. Comp. 19, 297
(1965)) and begins with that order. Neither scales.

The butterflies are straight-line code that a short generator writes, as FFTW's does (Frigo and Johnson, Proc. IEEE 93,
216 (2005)), into LLVM's vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from llvmlite.binding import add_symbol
from numba import types
from numba.core import cgutils

from ptycho_bluesky.transforms._lanes import LANES, REAL, VECTOR, at, emitted, put, spread

__all__ = ["FASTMATH", "RADICES", "Plan", "can_transform", "forward", "inverse", "plan_for"]

FASTMATH = {"contract", "reassoc", "nsz", "arcp"}
"""NaN must stay NaN: the divergence guard looks for it."""

_WORD = ir.IntType(64)

RADICES = (16, 8, 7, 5, 4, 3, 2)


class Plan(NamedTuple):
    """How a transform of one length is done."""

    length: int

    passes: npt.NDArray[np.int64]
    """(passes, 3): radix, length of the transforms that the pass splits, place of its first twiddle."""

    twiddles: npt.NDArray[np.float32]
    """Real and imaginary part of each twiddle; of each pass (length / radix, radix - 1) of them."""

    order: npt.NDArray[np.int64]
    """(length,) the frequency that each place of a spectrum holds."""


def _radices(length: int) -> list[int]:
    """Return few radices whose product is `length`, the largest last, where it needs no twiddles; none if it cannot."""
    found: dict[int, list[int]] = {1: []}
    for reached in range(2, length + 1):
        if length % reached == 0:
            ways = [[*found[reached // r], r] for r in RADICES if reached % r == 0 and reached // r in found]
            if ways:
                found[reached] = min(ways, key=lambda way: (len(way), sum(way)))
    return sorted(found.get(length, []))


def can_transform(length: int) -> bool:
    """Tell whether a length is a product of the radices."""
    return bool(_radices(length))


def plan_for(length: int) -> Plan:
    """Return the plan for a length that :func:`can_transform` admits."""
    passes, twiddles, left, place = [], [], length, 0
    for radix in _radices(length):
        turns = np.outer(np.arange(left // radix), np.arange(1, radix)).ravel() / left
        passes.append((radix, left, place))
        twiddles.append(np.exp(-2j * np.pi * turns).astype(np.complex64).view(np.float32))
        left, place = left // radix, place + 2 * len(turns)
    order = np.zeros(1, np.int64)
    for radix, _, _ in reversed(passes):
        order = (np.arange(radix)[:, None] + radix * order[None]).ravel()
    return Plan(length, np.array(passes), np.concatenate(twiddles), order)


class _Complex:
    """A complex vector whose arithmetic writes instructions."""

    def __init__(self, builder: ir.IRBuilder, real: Any, imag: Any) -> None:
        self.builder, self.real, self.imag = builder, real, imag

    def __add__(self, other: _Complex) -> _Complex:
        b = self.builder
        return _Complex(b, b.fadd(self.real, other.real), b.fadd(self.imag, other.imag))

    def __sub__(self, other: _Complex) -> _Complex:
        b = self.builder
        return _Complex(b, b.fsub(self.real, other.real), b.fsub(self.imag, other.imag))

    def scaled(self, factor: float) -> _Complex:
        b, vector = self.builder, ir.Constant(VECTOR, [float(np.float32(factor))] * LANES)
        return _Complex(b, b.fmul(self.real, vector), b.fmul(self.imag, vector))

    def times(self, real: Any, imag: Any) -> _Complex:
        b = self.builder
        return _Complex(
            b,
            b.fsub(b.fmul(self.real, real), b.fmul(self.imag, imag)),
            b.fadd(b.fmul(self.real, imag), b.fmul(self.imag, real)),
        )

    def turned(self, turns: Fraction) -> _Complex:
        """Multiply with ``exp(-2 pi i turns)``."""
        turns, b = turns % 1, self.builder
        if turns >= Fraction(1, 2):
            back = self.turned(turns - Fraction(1, 2))
            return _Complex(b, b.fneg(back.real), b.fneg(back.imag))
        if turns >= Fraction(1, 4):
            back = self.turned(turns - Fraction(1, 4))
            return _Complex(b, back.imag, b.fneg(back.real))
        if turns == 0:
            return self
        if turns == Fraction(1, 8):
            return _Complex(b, b.fadd(self.real, self.imag), b.fsub(self.imag, self.real)).scaled(np.sqrt(0.5))
        angle = -2 * np.pi * float(turns)
        cosine, sine = (ir.Constant(VECTOR, [float(np.float32(f(angle)))] * LANES) for f in (np.cos, np.sin))
        return self.times(cosine, sine)


def _dft(x: list[_Complex]) -> list[_Complex]:
    """Write the discrete Fourier transform of a few numbers."""
    length = len(x)
    if length == 1:
        return x
    if length == 2:
        return [x[0] + x[1], x[0] - x[1]]
    if length % 2:
        return _odd_dft(x)
    radix = 4 if length % 4 == 0 and length > 4 else 2
    parts = [_dft(x[start::radix]) for start in range(radix)]
    columns = [
        _dft([part[k].turned(Fraction(number * k, length)) for number, part in enumerate(parts)])
        for k in range(length // radix)
    ]
    return [column[row] for row in range(radix) for column in columns]


def _odd_dft(x: list[_Complex]) -> list[_Complex]:
    """Write the transform of a prime length: even and odd halves share the products."""
    length, found = len(x), list(x)
    sums = [x[j] + x[length - j] for j in range(1, (length + 1) // 2)]
    differences = [(x[j] - x[length - j]).turned(Fraction(1, 4)) for j in range(1, (length + 1) // 2)]
    for one in sums:
        found[0] = found[0] + one
    for k in range(1, (length + 1) // 2):
        turn = 2 * np.pi * k / length
        even, odd = x[0] + sums[0].scaled(np.cos(turn)), differences[0].scaled(np.sin(turn))
        for j, (plus, minus) in enumerate(zip(sums[1:], differences[1:], strict=True), start=2):
            even, odd = even + plus.scaled(np.cos(turn * j)), odd + minus.scaled(np.sin(turn * j))
        found[k], found[length - k] = even + odd, even - odd
    return found


def _write_butterfly(builder: ir.IRBuilder, radix: int, back: bool, rows: list[Any], twiddles: Any) -> None:
    """Write what transforms one row of each of `radix` pointers, in place, with twiddles behind a pointer or without.

    Back, real and imaginary parts change places on the way in and out, which makes the transform the inverse one.
    """

    def turned(numbers: list[_Complex]) -> list[_Complex]:
        if twiddles is None:
            return numbers
        found = numbers[:1]
        for k, number in enumerate(numbers[1:]):
            pair = [builder.load(builder.gep(twiddles, [_WORD(2 * k + plane)])) for plane in (0, 1)]
            found.append(number.times(*(spread(builder, one) for one in pair)))
        return found

    planes = (LANES, 0) if back else (0, LANES)
    values = [_Complex(builder, *(at(builder, row, _WORD(plane)) for plane in planes)) for row in rows]
    values = _dft(turned(values)) if back else turned(_dft(values))
    for row, value in zip(rows, values, strict=True):
        for plane, part in zip(planes, (value.real, value.imag), strict=True):
            put(builder, part, row, _WORD(plane))


def _write_pass(builder: ir.IRBuilder, radix: int, back: bool, strip: Any, count: Any, length: Any, table: Any) -> None:
    """Write the pass that splits (back: joins) transforms of `length` in a strip of `count` rows."""
    width = _WORD(2 * LANES)
    stride = builder.udiv(length, _WORD(radix))
    step = builder.mul(stride, width)

    def write(row: Any, twiddles: Any) -> None:
        first = builder.gep(strip, [builder.mul(row, width)])
        rows = [builder.gep(first, [builder.mul(step, _WORD(k))]) for k in range(radix)]
        _write_butterfly(builder, radix, back, rows, twiddles)

    with builder.if_else(builder.icmp_unsigned("==", stride, _WORD(1))) as (last, other):
        with last, cgutils.for_range(builder, builder.udiv(count, length)) as block:
            write(builder.mul(block.index, length), None)
        with (
            other,
            cgutils.for_range(builder, builder.udiv(count, length)) as block,
            cgutils.for_range(builder, stride) as inner,
        ):
            twiddles = builder.gep(table, [builder.mul(inner.index, _WORD(2 * (radix - 1)))])
            write(builder.add(builder.mul(block.index, length), inner.index), twiddles)


def _written(back: bool) -> Any:
    """Return what writes one pass of any radix."""

    @emitted
    def run(_: Any, strip: Any, rows: Any, radix: Any, length: Any, twiddles: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
            target, count, chosen, whole, table = args
            end = builder.append_basic_block("end")
            switch = builder.switch(chosen, end)
            for number in RADICES:
                block = builder.append_basic_block(f"radix{number}")
                switch.add_case(_WORD(number), block)
                with builder.goto_block(block):
                    _write_pass(builder, number, back, target, count, whole, table)
                    builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(strip, rows, radix, length, twiddles), emit

    return run


def _called(name: str) -> Any:
    """Return what calls a function of one pass by its name."""

    @emitted
    def call(_: Any, strip: Any, rows: Any, radix: Any, length: Any, twiddles: Any, first: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
            target, table = (context.make_array(sig.args[n])(context, builder, args[n]).data for n in (0, 4))
            floats = REAL.as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [floats, _WORD, _WORD, _WORD, floats])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(function, [target, *args[1:4], builder.gep(table, [args[5]])])
            return context.get_dummy_value()

        return types.void(strip, types.intp, types.intp, types.intp, twiddles, types.intp), emit

    return call


_PASS = types.void(types.CPointer(types.float32), types.intp, types.intp, types.intp, types.CPointer(types.float32))
jit: Callable[[Callable[..., None]], Any] = numba.njit(nogil=True, error_model="numpy", fastmath=FASTMATH)
linked: Callable[[Callable[..., None]], Any] = numba.cfunc(_PASS, error_model="numpy", fastmath=FASTMATH, cache=True)
_run_ahead, _run_back = _written(back=False), _written(back=True)


@linked
def _pass_ahead(strip: Any, rows: Any, radix: Any, length: Any, twiddles: Any) -> None:
    _run_ahead(strip, rows, radix, length, twiddles)


@linked
def _pass_back(strip: Any, rows: Any, radix: Any, length: Any, twiddles: Any) -> None:
    _run_back(strip, rows, radix, length, twiddles)


# Known to the linker by name, a pass is compiled once and called, rather than inlined wherever a strip is transformed.
add_symbol("ptycho_bluesky_pass_ahead", _pass_ahead.address)
add_symbol("ptycho_bluesky_pass_back", _pass_back.address)
_call_ahead, _call_back = _called("ptycho_bluesky_pass_ahead"), _called("ptycho_bluesky_pass_back")


@jit
def forward(strip: Any, plan: Any) -> None:
    """Transform the first ``plan.length`` rows of a strip (rows, 2, 16) in place, to the plan's order."""
    for number in range(plan.passes.shape[0]):
        radix, length, first = plan.passes[number]
        _call_ahead(strip, plan.length, radix, length, plan.twiddles, first)


@jit
def inverse(strip: Any, plan: Any) -> None:
    """Transform back in place, from the plan's order."""
    for number in range(plan.passes.shape[0] - 1, -1, -1):
        radix, length, first = plan.passes[number]
        _call_back(strip, plan.length, radix, length, plan.twiddles, first)
