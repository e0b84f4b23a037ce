"""The likelihood's slope, and its curvature along a direction, as fused passes over one frame after the other.

They go the ways of :mod:`_passes`; nothing of the model is written to, so that frames may come in any order: sorted by
group, a group's probe and gradient stay in the second-level cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.reconstruction.kernels._passes import (
    begin,
    exit_strip,
    jit,
    look_up,
    meet,
    part,
    propagate,
)
from ptycho_bluesky.reconstruction.kernels._strips import cached
from ptycho_bluesky.transforms import (
    LANES,
    forward,
    from_waves,
    inverse,
    larger,
    load,
    logarithm,
    root,
    splat,
    store,
    to_waves,
    total,
    where_bad,
)

__all__ = ["Detector", "Gradient", "curvature", "slope"]

f32: Any = np.float32


class Detector(NamedTuple):
    """How waves become a likelihood. Patterns (strips, rows, 16), in the order in which a pass meets the detector."""

    background: npt.NDArray[np.float32]
    """Counts that are no diffraction."""

    pedestal: npt.NDArray[np.float32]
    """The same, not below the floor under Poisson's logarithm."""

    poisson: bool
    """Noise of the counts, else of constant width for their roots."""

    eps: float
    """Counts below which an intensity is not divided by."""


class Gradient(NamedTuple):
    """What a thread sums up: numerators and weights, see :class:`SlopeSums`."""

    object: npt.NDArray[np.float32]
    """A tile (Y + 2, 2, X + 18)."""

    object_weight: npt.NDArray[np.float32]
    """(Y + 2, X + 18)"""

    probes: npt.NDArray[np.float32]
    """(groups, M, strips, rows, 2, 16)"""

    probes_weight: npt.NDArray[np.float32]
    """(groups, strips, rows, 16)"""

    excess: npt.NDArray[np.float32]
    """(strips, rows, 16) first derivatives by the background, as a pass meets them; no strips if not asked for."""

    certainty: npt.NDArray[np.float32]
    """Second ones, in the mean over the noise."""


@jit
def _weigh(strips: Any, measured: Any, s: int, optics: Any, detector: Any, gradient: Any) -> Any:
    """Turn waves on the detector into what they lack; return the loss and ``sum |modulus - amplitude|`` of the strip.

    Loss and derivatives: Thibault and Guizar-Sicairos, New J. Phys. 14, 063004 (2012), sections 2.1 and 2.2.
    """
    none, one, half, square = splat(f32(0)), splat(f32(1)), splat(f32(0.5)), splat(f32(optics.scale * optics.scale))
    small, tiny, least = splat(f32(detector.eps)), splat(f32(1e-6)), splat(f32(1e-30))
    loss = error = none
    for i in range(optics.plan.length):
        power, a = none, load(measured, (i, 0))
        for m in range(strips.shape[0]):
            w, wi = load(strips, (m, i, 0, 0)), load(strips, (m, i, 1, 0))
            power = power + w * w + wi * wi
        power = power * square
        intensity, modulus = (
            power + load(detector.pedestal, (s, i, 0)),
            root(power + load(detector.background, (s, i, 0))),
        )
        missed, certainty = modulus - a, one / larger(intensity, small)
        if detector.poisson:
            counts = a * a
            ratio = counts * certainty
            each = intensity - counts + counts * logarithm(larger(ratio, least))
        else:
            ratio, certainty, each = a / (modulus + tiny), half * certainty, missed * missed
        lack = where_bad(a, none, ratio - one)
        loss = loss + where_bad(a, none, each)
        error = error + where_bad(a, none, larger(missed, none - missed))
        if gradient.excess.shape[0]:
            place = (s, i, 0)
            store(gradient.excess, place, load(gradient.excess, place) - lack)
            store(gradient.certainty, place, load(gradient.certainty, place) + where_bad(a, none, certainty))
        lack = lack * square
        for m in range(strips.shape[0]):
            store(strips, (m, i, 0, 0), load(strips, (m, i, 0, 0)) * lack)
            store(strips, (m, i, 1, 0), load(strips, (m, i, 1, 0)) * lack)
    return total(loss), total(error)


@jit
def _add_strip(obj: Any, probe: Any, y: int, x: int, s: int, size: int, strips: Any, c: int, gradient: Any) -> None:
    """Add what the waves lack behind a strip of the sample to the gradients of object and probe, and their weights."""
    none, column = splat(f32(0)), x + s * LANES
    learnt = gradient.probes[c]
    for i in range(size):
        row = y + i
        o, oi = load(obj, (row, 0, column)), load(obj, (row, 1, column))
        light = real = imag = none
        for m in range(probe.shape[0]):
            p, pi = load(probe, (m, s, i, 0, 0)), load(probe, (m, s, i, 1, 0))
            w, wi = load(strips, (m, i, 0, 0)), load(strips, (m, i, 1, 0))
            light = light + p * p + pi * pi
            real, imag = real + p * w + pi * wi, imag + p * wi - pi * w
            store(learnt, (m, s, i, 0, 0), load(learnt, (m, s, i, 0, 0)) + o * w + oi * wi)
            store(learnt, (m, s, i, 1, 0), load(learnt, (m, s, i, 1, 0)) + o * wi - oi * w)
        store(gradient.object, (row, 0, column), load(gradient.object, (row, 0, column)) + real)
        store(gradient.object, (row, 1, column), load(gradient.object, (row, 1, column)) + imag)
        store(gradient.object_weight, (row, column), load(gradient.object_weight, (row, column)) + light)
        place = (c, s, i, 0)
        store(gradient.probes_weight, place, load(gradient.probes_weight, place) + o * o + oi * oi)


@cached
def slope(
    visits: Any, amplitude: Any, obj: Any, probes: Any, optics: Any, room: Any, detector: Any, gradient: Any,
) -> Any:  # fmt: skip
    """Add the slope of each visited frame to `gradient`; return the loss and ``sum |modulus - amplitude|``.

    Visits, obj (a tile) and probes as in :func:`sweep`.
    """
    loss = error = 0.0
    for k in range(visits.shape[0]):
        row, y, x, c = visits[k]
        begin(obj, probes[c], y + 1, x + 1, optics, room)
        for s in range(room.waves.shape[0]):
            look_up(amplitude, row, s, optics, room.measured)
            strips = meet(s, optics, room)
            one, other = _weigh(strips, room.measured, s, optics, detector, gradient)
            loss, error = loss + one, error + other
            part(strips, s, optics, room)
        if optics.transfer.shape[0]:
            propagate(room.waves, optics, f32(-1))
        strips = room.strips[0]
        for s in range(room.waves.shape[0]):
            for m in range(strips.shape[0]):
                from_waves(room.waves, m, s, strips[m])
                inverse(strips[m], optics.plan)
            _add_strip(obj, probes[c], y + 1, x + 1, s, optics.plan.length, strips, c, gradient)
    return loss, error


@jit
def _move_strip(
    obj: Any, probe: Any, obj_move: Any, probe_move: Any, y: int, x: int, s: int, size: int, strip: Any,
) -> None:  # fmt: skip
    """Write how the exit wave of a strip moves, to first order, when object and probe do."""
    for i in range(size):
        o, oi = load(obj, (y + i, 0, x + s * LANES)), load(obj, (y + i, 1, x + s * LANES))
        d, di = load(obj_move, (y + i, 0, x + s * LANES)), load(obj_move, (y + i, 1, x + s * LANES))
        p, pi = load(probe, (s, i, 0, 0)), load(probe, (s, i, 1, 0))
        q, qi = load(probe_move, (s, i, 0, 0)), load(probe_move, (s, i, 1, 0))
        store(strip, (i, 0, 0), p * d - pi * di + q * o - qi * oi)
        store(strip, (i, 1, 0), p * di + pi * d + q * oi + qi * o)


@jit
def _bend(strips: Any, measured: Any, move: Any, s: int, optics: Any, detector: Any) -> Any:
    """Return the second derivative of a strip's loss: the exact one, and its mean over the noise at this model."""
    none, one, half, square = splat(f32(0)), splat(f32(1)), splat(f32(0.5)), splat(f32(optics.scale * optics.scale))
    two, small, modes = splat(f32(2)), splat(f32(detector.eps)), strips.shape[0] // 2
    exact = expected = none
    for i in range(optics.plan.length):
        power = rises = bends = none
        for m in range(modes):
            w, wi = load(strips, (m, i, 0, 0)), load(strips, (m, i, 1, 0))
            d, di = load(strips, (modes + m, i, 0, 0)), load(strips, (modes + m, i, 1, 0))
            power, bends = power + w * w + wi * wi, bends + d * d + di * di
            rises = rises + w * d + wi * di
        a, intensity = load(measured, (i, 0)), larger(power * square + load(detector.pedestal, (s, i, 0)), small)
        rises, bends = two * square * rises + load(move, (s, i, 0)), two * square * bends
        if detector.poisson:
            usual = one / intensity
            ratio = a * a * usual
        else:
            usual, ratio = half / intensity, a / root(intensity)
        mean = where_bad(a, none, usual * rises * rises)
        exact = exact + ratio * mean + where_bad(a, none, (one - ratio) * bends)
        expected = expected + mean
    return total(exact), total(expected)


@cached
def curvature(
    visits: Any, amplitude: Any, obj: Any, probes: Any, obj_move: Any, probes_move: Any, move: Any, optics: Any,
    room: Any, detector: Any,
) -> Any:  # fmt: skip
    """Return the loss's second derivative along a direction, waves linear in the step: exact, and as on average.

    The direction: obj_move (a tile), probes_move, and move (strips, rows, 16) of the background; `room` is for twice
    the modes, the waves and what they move by.
    """
    exact = expected = 0.0
    modes, size, strip = probes.shape[1], optics.plan.length, room.strips[0, 0]
    for k in range(visits.shape[0]):
        row, y, x, c = visits[k]
        for m in range(modes):
            for s in range(room.waves.shape[0]):
                exit_strip(obj, probes[c, m], y + 1, x + 1, s, size, strip)
                forward(strip, optics.plan)
                to_waves(strip, room.waves, m, s)
                _move_strip(obj, probes[c, m], obj_move, probes_move[c, m], y + 1, x + 1, s, size, strip)
                forward(strip, optics.plan)
                to_waves(strip, room.waves, modes + m, s)
        if optics.transfer.shape[0]:
            propagate(room.waves, optics, f32(1))
        for s in range(room.waves.shape[0]):
            look_up(amplitude, row, s, optics, room.measured)
            one, other = _bend(meet(s, optics, room), room.measured, move, s, optics, detector)
            exact, expected = exact + one, expected + other
    return exact, expected
