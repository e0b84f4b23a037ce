"""The kernel set for CPUs: fused passes over one frame, which never leaves the second-level cache.

Everything is done strip by strip (see :mod:`_strips`). From one axis to the other, strips are transposed in registers.
In the far field the spectrum is met transposed and in the transform's own order, which the amplitudes are brought to on
the way in: transform, projection and transform back of a strip happen in the first-level cache.

Each function works on one frame and its M probe modes; :func:`sweep` strings them together without coming back to
Python and without the GIL, so that plain threads scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

from ptycho_bluesky.reconstruction.kernels._strips import cached
from ptycho_bluesky.transforms import (
    FASTMATH,
    LANES,
    forward,
    from_waves,
    highest,
    inverse,
    larger,
    load,
    root,
    splat,
    store,
    to_waves,
    total,
    transpose_rows,
    where_bad,
)

__all__ = [
    "Pace",
    "begin",
    "evaluate",
    "exit_strip",
    "jit",
    "look_up",
    "meet",
    "part",
    "propagate",
    "sweep",
]

_F = TypeVar("_F", bound=Callable[..., Any])

f32: Any = np.float32
jit: Callable[[_F], _F] = numba.njit(
    nogil=True, error_model="numpy", fastmath=FASTMATH, no_cpython_wrapper=True, no_cfunc_wrapper=True
)


class Pace(NamedTuple):
    """Steps and regularisation of an update: see :class:`Steps`."""

    object: float
    probe: float
    alpha_object: float
    alpha_probe: float


@jit
def exit_strip(obj: Any, probe: Any, y: int, x: int, s: int, size: int, strip: Any) -> None:
    """Write the product of probe (strips, rows, 2, 16) and patch at (y, x) to a strip (rows, 2, 16)."""
    for i in range(size):
        o, oi = load(obj, (y + i, 0, x + s * LANES)), load(obj, (y + i, 1, x + s * LANES))
        p, pi = load(probe, (s, i, 0, 0)), load(probe, (s, i, 1, 0))
        store(strip, (i, 0, 0), p * o - pi * oi)
        store(strip, (i, 1, 0), p * oi + pi * o)


@jit
def look_up(amplitude: Any, k: int, s: int, optics: Any, measured: Any) -> None:
    """Write strip s of frame k of amplitude (K, H, W) to measured (rows, 16), padded with bad pixels.

    In the far field it is the transposed frame's strip, in the transform's order.
    """
    size, near = amplitude.shape[1], optics.transfer.shape[0] > 0
    for lane in range(max(0, min(LANES, size - s * LANES)), LANES):
        for i in range(size):
            measured[i, lane] = f32(-1)
    whole = size // LANES * LANES
    if near:
        for i in range(size):
            if (s + 1) * LANES <= size:
                store(measured, (i, 0), load(amplitude, (k, i, s * LANES)))
            else:
                for lane in range(size - s * LANES):
                    measured[i, lane] = amplitude[k, i, s * LANES + lane]
        return
    rows = optics.order[s * LANES : (s + 1) * LANES]
    for j in range(0, whole, LANES):
        transpose_rows(amplitude, (k, 0, j), size, rows, measured, optics.places[j : j + LANES])
    for lane in range(min(LANES, size - s * LANES)):
        for j in range(whole, size):
            measured[optics.places[j], lane] = amplitude[k, rows[lane], j]
    if (s + 1) * LANES > size:  # what the transposes brought
        for i in range(size):
            for lane in range(size - s * LANES, LANES):
                measured[i, lane] = f32(-1)


@jit
def _project(strips: Any, measured: Any, size: int, scale: Any) -> Any:
    """Replace the modulus over the modes of strips (M, rows, 2, 16) by the measured one; return the summed error.

    A negative amplitude marks a bad pixel: the model's value stays, and counts for no error. `scale` makes the
    transform unitary; it is applied twice, for the way here and the way back.
    """
    none, square, tiny, unit = splat(f32(0)), splat(scale * scale), splat(f32(1e-6)), splat(scale)
    error = none
    for i in range(size):
        power = none
        for m in range(strips.shape[0]):
            w, wi = load(strips, (m, i, 0, 0)), load(strips, (m, i, 1, 0))
            power = power + w * w + wi * wi
        modulus, a = root(power) * unit, load(measured, (i, 0))
        missed = modulus - a
        error = error + where_bad(a, none, larger(missed, none - missed))
        ratio = where_bad(a, square, square * a / (modulus + tiny))
        for m in range(strips.shape[0]):
            store(strips, (m, i, 0, 0), load(strips, (m, i, 0, 0)) * ratio)
            store(strips, (m, i, 1, 0), load(strips, (m, i, 1, 0)) * ratio)
    return total(error)


@jit
def propagate(waves: Any, optics: Any, sign: Any) -> None:
    """Multiply the spectrum with the transfer function or its conjugate; one axis of waves is transformed already."""
    turn = splat(sign)
    for s in range(waves.shape[0]):
        transfer = optics.transfer[s]
        for m in range(waves.shape[1]):
            strip = waves[s, m]
            forward(strip, optics.plan)
            for i in range(optics.plan.length):
                t, ti = load(transfer, (i, 0, 0)), load(transfer, (i, 1, 0)) * turn
                w, wi = load(strip, (i, 0, 0)), load(strip, (i, 1, 0))
                store(strip, (i, 0, 0), w * t - wi * ti)
                store(strip, (i, 1, 0), w * ti + wi * t)
            inverse(strip, optics.plan)


@jit
def begin(obj: Any, probe: Any, y: int, x: int, optics: Any, room: Any) -> None:
    """Write the exit waves to the room's waves, one axis transformed; in the near field, propagated half-way too."""
    strip = room.strips[0, 0]
    for m in range(probe.shape[0]):
        for s in range(probe.shape[1]):
            exit_strip(obj, probe[m], y, x, s, optics.plan.length, strip)
            forward(strip, optics.plan)
            to_waves(strip, room.waves, m, s)
    if optics.transfer.shape[0]:
        propagate(room.waves, optics, f32(1))


@jit
def meet(s: int, optics: Any, room: Any) -> Any:
    """Return strip s of all modes on the detector, (M, rows, 2, 16)."""
    if optics.transfer.shape[0]:
        strips = room.strips[0]
        for m in range(strips.shape[0]):
            from_waves(room.waves, m, s, strips[m])
            inverse(strips[m], optics.plan)
        return strips
    strips = room.waves[s]
    for m in range(strips.shape[0]):
        forward(strips[m], optics.plan)
    return strips


@jit
def part(strips: Any, s: int, optics: Any, room: Any) -> None:
    """Undo :func:`meet`."""
    for m in range(strips.shape[0]):
        if optics.transfer.shape[0]:
            forward(strips[m], optics.plan)
            to_waves(strips[m], room.waves, m, s)
        else:
            inverse(strips[m], optics.plan)


@jit
def _update_strip(
    obj: Any, probe: Any, y: int, x: int, s: int, size: int, strips: Any, peak: Any, steps: Any,
) -> Any:  # fmt: skip
    """Move a strip of object and probe towards the projected waves; return the new ``max sum |probe|**2``.

    rPIE: Maiden, Johnson and Li, Optica 4, 736 (2017), eq. 19; with modes: Thibault and Menzel, Nature 494, 68
    (2013). The exit wave is computed anew, which is cheaper than to keep it.
    """
    step_object, step_probe = splat(f32(steps.object)), splat(f32(steps.probe))
    rest_object, floor_object = splat(f32(1 - steps.alpha_object)), splat(f32(steps.alpha_object) * peak)
    rest_probe, floor_probe = splat(f32(1 - steps.alpha_probe)), splat(f32(steps.alpha_probe))
    none, tiny = splat(f32(0)), splat(f32(1e-30))
    brightest = none
    for i in range(size):
        o, oi = load(obj, (y + i, 0, x + s * LANES)), load(obj, (y + i, 1, x + s * LANES))
        o2 = o * o + oi * oi
        weight = step_probe / larger(rest_probe * o2 + floor_probe, o2)
        before = after = real = imag = none
        for m in range(probe.shape[0]):
            p, pi = load(probe, (m, s, i, 0, 0)), load(probe, (m, s, i, 1, 0))
            w = load(strips, (m, i, 0, 0)) - (p * o - pi * oi)
            wi = load(strips, (m, i, 1, 0)) - (p * oi + pi * o)
            before = before + p * p + pi * pi
            real, imag = real + p * w + pi * wi, imag + p * wi - pi * w
            q, qi = p + weight * (o * w + oi * wi), pi + weight * (o * wi - oi * w)
            store(probe, (m, s, i, 0, 0), q)
            store(probe, (m, s, i, 1, 0), qi)
            after = after + q * q + qi * qi
        step = step_object / larger(rest_object * before + floor_object, before + tiny)
        store(obj, (y + i, 0, x + s * LANES), o + real * step)
        store(obj, (y + i, 1, x + s * LANES), oi + imag * step)
        brightest = larger(brightest, after)
    return highest(brightest)


@jit
def _add_shift(obj: Any, probe: Any, y: int, x: int, s: int, size: int, strips: Any, sums: Any) -> None:
    """Add to sums (5,) what a strip knows of the frame's shift: see :func:`_solve_shift`."""
    half, none = splat(f32(0.5)), splat(f32(0))
    yy = xx = yx = by = bx = none
    column = x + s * LANES
    for i in range(size):
        row = y + i
        o, oi = load(obj, (row, 0, column)), load(obj, (row, 1, column))
        v = (load(obj, (row + 1, 0, column)) - load(obj, (row - 1, 0, column))) * half
        vi = (load(obj, (row + 1, 1, column)) - load(obj, (row - 1, 1, column))) * half
        h = (load(obj, (row, 0, column + 1)) - load(obj, (row, 0, column - 1))) * half
        hi = (load(obj, (row, 1, column + 1)) - load(obj, (row, 1, column - 1))) * half
        power = real = imag = none
        for m in range(probe.shape[0]):
            p, pi = load(probe, (m, s, i, 0, 0)), load(probe, (m, s, i, 1, 0))
            w = load(strips, (m, i, 0, 0)) - (p * o - pi * oi)
            wi = load(strips, (m, i, 1, 0)) - (p * oi + pi * o)
            power = power + p * p + pi * pi
            real, imag = real + p * w + pi * wi, imag + p * wi - pi * w
        yy, xx = yy + power * (v * v + vi * vi), xx + power * (h * h + hi * hi)
        yx = yx + power * (v * h + vi * hi)
        by, bx = by + v * real + vi * imag, bx + h * real + hi * imag
    for number, value in enumerate((yy, xx, yx, by, bx)):
        sums[number] += total(value)


@jit
def _solve_shift(sums: Any, found: Any) -> None:
    """Write to found (2,) by how many pixels the corner should move to explain the projected waves better.

    The least-squares solution of ``wave - P O = s_y P dO/dy + s_x P dO/dx`` (Odstrcil, Menzel and Guizar-Sicairos,
    Optics Express 26, 3108 (2018), eq. 28, both axes together).
    """
    yy, xx, yx, by, bx = sums
    determinant = yy * xx - yx * yx
    safe = determinant > 1e-6 * yy * xx
    found[0] = (xx * by - yx * bx) / determinant if safe else 0.0
    found[1] = (yy * bx - yx * by) / determinant if safe else 0.0


@jit
def _return(
    obj: Any, probe: Any, y: int, x: int, optics: Any, room: Any, peak: Any, steps: Any, shift: Any,
) -> Any:  # fmt: skip
    """Bring the projected waves back to the sample and update; return the new peak.

    Where the shift is looked for (shift (2,), else (0,)), the update stays one strip behind: slopes are of the object
    as it was.
    """
    size, count, lag = optics.plan.length, probe.shape[1], 1 if shift.shape[0] else 0
    brightest, sums = f32(0), np.zeros(5)
    for s in range(count + lag):
        if s < count:
            strips = room.strips[s % (1 + lag)]
            for m in range(probe.shape[0]):
                from_waves(room.waves, m, s, strips[m])
                inverse(strips[m], optics.plan)
            if lag:
                _add_shift(obj, probe, y, x, s, size, strips, sums)
        if s >= lag:
            late = room.strips[(s - lag) % (1 + lag)]
            brightest = max(brightest, _update_strip(obj, probe, y, x, s - lag, size, late, peak, steps))
    if lag:
        _solve_shift(sums, shift)
    return brightest


@jit
def _peak(probe: Any) -> Any:
    largest = splat(f32(0))
    for s in range(probe.shape[1]):
        for i in range(probe.shape[2]):
            power = splat(f32(0))
            for m in range(probe.shape[0]):
                p, pi = load(probe, (m, s, i, 0, 0)), load(probe, (m, s, i, 1, 0))
                power = power + p * p + pi * pi
            largest = larger(largest, power)
    return highest(largest)


@cached
def sweep(visits: Any, amplitude: Any, obj: Any, probes: Any, optics: Any, room: Any, steps: Any, shifts: Any) -> Any:
    """Visit frames one after the other; update obj (a tile) and probes (groups, M, strips, rows, 2, 16) in place.

    Visit k (row, y, x, group) is of ``amplitude[row]``, with its corner at (y, x) of the object and the probe of its
    group; shifts (n, 2) takes the shifts found, unless it is (n, 0). Returns the summed error, as seen by each frame
    just before it moved anything.
    """
    peaks = np.empty(probes.shape[0], np.float32)
    for c in range(probes.shape[0]):
        peaks[c] = _peak(probes[c])
    error = 0.0
    for k in range(visits.shape[0]):
        row, y, x, c = visits[k]
        begin(obj, probes[c], y + 1, x + 1, optics, room)
        for s in range(room.waves.shape[0]):
            look_up(amplitude, row, s, optics, room.measured)
            strips = meet(s, optics, room)
            error += _project(strips, room.measured, optics.plan.length, f32(optics.scale))
            part(strips, s, optics, room)
        if optics.transfer.shape[0]:
            propagate(room.waves, optics, f32(-1))
        peaks[c] = _return(obj, probes[c], y + 1, x + 1, optics, room, peaks[c], steps, shifts[k])
    return error


@cached
def evaluate(
    visits: Any, amplitude: Any, obj: Any, probes: Any, optics: Any, room: Any, background: Any, factor: Any,
) -> Any:  # fmt: skip
    """Return ``sum |factor m - a|``, ``sum m a`` and ``sum m m`` over good pixels; the rest as in :func:`sweep`.

    The modulus is ``m = sqrt(sum over modes |wave|**2 + background)``; background (strips, rows, 16) counts.
    """
    none, unit, stretch = splat(f32(0)), splat(f32(optics.scale * optics.scale)), splat(f32(factor))
    sums = np.zeros(3)
    for k in range(visits.shape[0]):
        row, y, x, c = visits[k]
        begin(obj, probes[c], y + 1, x + 1, optics, room)
        for s in range(room.waves.shape[0]):
            look_up(amplitude, row, s, optics, room.measured)
            strips = meet(s, optics, room)
            absolute = cross = square = none
            for i in range(optics.plan.length):
                power, a = none, load(room.measured, (i, 0))
                for m in range(strips.shape[0]):
                    w, wi = load(strips, (m, i, 0, 0)), load(strips, (m, i, 1, 0))
                    power = power + w * w + wi * wi
                modulus = where_bad(a, none, root(power * unit + load(background, (s, i, 0))))
                a = larger(a, none)
                missed = stretch * modulus - a
                absolute = absolute + larger(missed, none - missed)
                cross, square = cross + modulus * a, square + modulus * modulus
            for number, value in enumerate((absolute, cross, square)):
                sums[number] += total(value)
    return sums
