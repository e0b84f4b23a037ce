"""The physics steps of ProbeViT for CPUs: one frame at a time, in the second-level cache, sixteen numbers at once.

What :class:`ProbeViT` says in torch, said again without temporaries; tests hold the two together. Object and waves lie
in strips of 16 columns, (strips, N, 2, 16) float32; what was measured lies in the order in which a strip's transform
leaves its spectrum, transposed (see :mod:`ptycho_bluesky.transforms`), so that no pixel is moved but by a transpose in
registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.inference._vit import MOMENTUM, PHASE_OBJECT
from ptycho_bluesky.transforms import (
    FASTMATH,
    LANES,
    Plan,
    aligned,
    forward,
    from_waves,
    inverse,
    load,
    root,
    splat,
    store,
    to_waves,
    total,
    where_bad,
)

__all__ = [
    "Beam",
    "Room",
    "advance",
    "believe",
    "entry",
    "f32",
    "illuminate",
    "jit",
    "look_ahead",
    "look_up",
    "misfit",
    "room_for",
    "scale",
    "step",
    "strips_of",
]

_F = TypeVar("_F", bound=Callable[..., Any])

f32: Any = np.float32
jit: Callable[[_F], _F] = numba.njit(
    nogil=True, error_model="numpy", fastmath=FASTMATH, no_cpython_wrapper=True, no_cfunc_wrapper=True
)
entry: Callable[[_F], _F] = numba.njit(nogil=True, error_model="numpy", fastmath=FASTMATH, cache=True)


class Beam(NamedTuple):
    """What follows from the probe and the detector's mask alone."""

    plan: Plan
    rows: npt.NDArray[np.int64]
    """(N,) row (or column) of a centred frame at each place of a spectrum."""
    probe: npt.NDArray[np.float32]
    """(modes, strips, N, 2, 16)"""
    back: npt.NDArray[np.float32]
    """(modes, strips, N, 2, 16) brings exit waves back to the object."""
    share: npt.NDArray[np.float32]
    """(strips, N, 16) the probe's intensity, sum 1."""
    light: npt.NDArray[np.float32]
    """(N, N) the probe's intensity, highest 1."""
    wave: npt.NDArray[np.float32]
    """(2, N, N) the strongest mode, in units of the root of the highest intensity."""
    expected: npt.NDArray[np.float32]
    """(N, N) intensity without a sample, zero frequency in the centre."""
    good: npt.NDArray[np.bool_]
    """(N, N) pixels that can be trusted, zero frequency in the centre."""
    iterations: int


def strips_of(waves: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    """Return waves (..., N, N) in strips (..., N / 16, N, 2, 16)."""
    *more, n, _ = waves.shape
    cut = np.moveaxis(waves.reshape(*more, n, n // LANES, LANES), -2, -3)
    strips = aligned((*cut.shape[:-1], 2, LANES))
    strips[..., 0, :], strips[..., 1, :] = cut.real, cut.imag
    return strips


class Room(NamedTuple):
    """Where one thread works."""

    strip: npt.NDArray[np.float32]
    """(N, 2, 16)"""
    waves: npt.NDArray[np.float32]
    """(strips, modes, N, 2, 16)"""
    object: npt.NDArray[np.float32]
    """(4, strips, N, 2, 16): the object, the one before, the one ahead, its change."""
    frame: npt.NDArray[np.float32]
    """(N + 2, N + 2) with a border of zeros."""
    maps: npt.NDArray[np.float32]
    """(3, N, N): brightest neighbours left and right, intensity, its excess over an empty beam's."""
    change: npt.NDArray[np.float32]
    """(2 + features, N, N) from the transformer."""
    seen: npt.NDArray[np.float32]
    """(channels, N, N) for the convolutions; their number is a multiple of 16, the last are empty."""


def room_for(beam: Beam, features: int) -> Room:
    """Return the room of a thread."""
    modes, strips, n, _, _ = beam.probe.shape
    channels = -(-(features + 9) // LANES) * LANES
    return Room(
        aligned((n, 2, LANES)),
        aligned((strips, modes, n, 2, LANES)),
        aligned((4, strips, n, 2, LANES)),
        np.zeros((n + 2, n + 2), np.float32),
        np.empty((3, n, n), np.float32),
        aligned((2 + features, n, n)),
        aligned((channels, n, n)),
    )


@jit
def believe(frame: Any, good: Any, room: Any) -> Any:
    """Write the counts of good pixels that are no lone hot ones, -1 elsewhere, to the room's intensity; return a sum.

    As ``believable_pixels``: hot is over 8 times the brightest of eight neighbours and 30 counts.
    """
    n, padded, rows, kept = frame.shape[0], room.frame, room.maps[0], room.maps[1]
    for i in range(n):
        for j in range(n):
            padded[i + 1, j + 1] = frame[i, j]
    for i in range(n):
        for j in range(n):
            rows[i, j] = max(padded[i + 1, j], padded[i + 1, j + 2])
    sum_ = f32(0)
    for i in range(n):
        above, below = max(i - 1, 0), min(i + 1, n - 1)  # at the border the neighbour's own row stands in, harmlessly
        for j in range(n):
            around = max(max(rows[above, j], padded[i, j + 1]), max(rows[below, j], padded[i + 2, j + 1]))
            count = frame[i, j]
            keep = good[i, j] and count <= f32(8) * max(around, rows[i, j]) + f32(30)
            kept[i, j] = count if keep else f32(-1)
            sum_ += count if keep else f32(0)
    return sum_


@jit
def scale(beam: Any, counts: Any, room: Any) -> None:
    """Bring the room's counts to the beam's intensity, -1 where bad, and write the excess over an empty beam's."""
    n, kept, excess = room.maps.shape[1], room.maps[1], room.maps[2]
    light = f32(0)
    for i in range(n):
        for j in range(n):
            light += beam.expected[i, j] if kept[i, j] >= 0 else f32(0)
    flux = light / max(counts, f32(1e-6))
    for i in range(n):
        for j in range(n):
            intensity = kept[i, j] * flux
            excess[i, j] = intensity - beam.expected[i, j] if kept[i, j] >= 0 else f32(0)
            kept[i, j] = intensity if kept[i, j] >= 0 else f32(-1)


@jit
def illuminate(beam: Any, obj: Any, room: Any) -> None:
    """Write the far field of all modes, not scaled, to the room's waves."""
    n, strip = beam.plan.length, room.strip
    for m in range(beam.probe.shape[0]):
        for s in range(beam.probe.shape[1]):
            for i in range(n):
                o, oi = load(obj, (s, i, 0, 0)), load(obj, (s, i, 1, 0))
                p, pi = load(beam.probe, (m, s, i, 0, 0)), load(beam.probe, (m, s, i, 1, 0))
                store(strip, (i, 0, 0), p * o - pi * oi)
                store(strip, (i, 1, 0), p * oi + pi * o)
            forward(strip, beam.plan)
            to_waves(strip, room.waves, m, s)
    for b in range(room.waves.shape[0]):
        for m in range(beam.probe.shape[0]):
            forward(room.waves[b, m], beam.plan)


@jit
def _power(strips: Any, i: int) -> Any:
    power = splat(f32(0))
    for m in range(strips.shape[0]):
        w, wi = load(strips, (m, i, 0, 0)), load(strips, (m, i, 1, 0))
        power = power + w * w + wi * wi
    return power


@jit
def step(beam: Any, obj: Any, amplitude: Any, room: Any, change: Any) -> None:
    """Write the change that one projection on `amplitude` (strips, N, 16) asks for: ``Beam.step``."""
    n, strip = beam.plan.length, room.strip
    illuminate(beam, obj, room)
    unit, tiny, none = splat(f32(1) / f32(n * n)), splat(f32(1e-12)), splat(f32(0))
    for b in range(room.waves.shape[0]):
        strips = room.waves[b]
        for i in range(n):
            a = load(amplitude, (b, i, 0))
            wrong = where_bad(a, none, (a / root(_power(strips, i) * unit + tiny) - splat(f32(1))) * unit)
            for m in range(strips.shape[0]):
                store(strips, (m, i, 0, 0), load(strips, (m, i, 0, 0)) * wrong)
                store(strips, (m, i, 1, 0), load(strips, (m, i, 1, 0)) * wrong)
        for m in range(strips.shape[0]):
            inverse(strips[m], beam.plan)
    for m in range(beam.probe.shape[0]):
        for s in range(beam.probe.shape[1]):
            from_waves(room.waves, m, s, strip)
            inverse(strip, beam.plan)
            for i in range(n):
                w, wi = load(strip, (i, 0, 0)), load(strip, (i, 1, 0))
                b, bi = load(beam.back, (m, s, i, 0, 0)), load(beam.back, (m, s, i, 1, 0))
                real, imag = w * b - wi * bi, w * bi + wi * b
                if m > 0:
                    real, imag = real + load(change, (s, i, 0, 0)), imag + load(change, (s, i, 1, 0))
                store(change, (s, i, 0, 0), real)
                store(change, (s, i, 1, 0), imag)


@jit
def advance(beam: Any, room: Any) -> None:
    """Add the change to the object ahead, and pull the amplitude towards its mean: a pure phase object."""
    obj, before, ahead, change = room.object[0], room.object[1], room.object[2], room.object[3]
    sum_ = splat(f32(0))
    for s in range(obj.shape[0]):
        for i in range(obj.shape[1]):
            for plane in range(2):
                store(before, (s, i, plane, 0), load(obj, (s, i, plane, 0)))
            o = load(ahead, (s, i, 0, 0)) + load(change, (s, i, 0, 0))
            oi = load(ahead, (s, i, 1, 0)) + load(change, (s, i, 1, 0))
            size = root(o * o + oi * oi) + splat(f32(1e-6))
            sum_ = sum_ + load(beam.share, (s, i, 0)) * size
            store(obj, (s, i, 0, 0), o)
            store(obj, (s, i, 1, 0), oi)
    kept, pull = splat(f32(1 - PHASE_OBJECT)), splat(f32(PHASE_OBJECT) * total(sum_))
    for s in range(obj.shape[0]):
        for i in range(obj.shape[1]):
            o, oi = load(obj, (s, i, 0, 0)), load(obj, (s, i, 1, 0))
            factor = kept + pull / (root(o * o + oi * oi) + splat(f32(1e-6)))
            store(obj, (s, i, 0, 0), o * factor)
            store(obj, (s, i, 1, 0), oi * factor)


@jit
def look_ahead(room: Any) -> None:
    obj, before, ahead = room.object[0], room.object[1], room.object[2]
    momentum = splat(f32(MOMENTUM))
    for s in range(obj.shape[0]):
        for i in range(obj.shape[1]):
            for plane in range(2):
                o = load(obj, (s, i, plane, 0))
                store(ahead, (s, i, plane, 0), o + momentum * (o - load(before, (s, i, plane, 0))))


@jit
def look_up(beam: Any, room: Any, amplitude: Any) -> None:
    n, intensity = beam.plan.length, room.maps[1]
    for b in range(amplitude.shape[0]):
        for i in range(n):
            for lane in range(LANES):
                value = intensity[beam.rows[b * LANES + lane], beam.rows[i]]
                amplitude[b, i, lane] = np.sqrt(value) if value >= 0 else f32(-1)


@jit
def misfit(amplitude: Any, room: Any) -> Any:
    """Return how far the room's waves are from the measured amplitudes, as :class:`Misfit` has it."""
    none, n = splat(f32(0)), amplitude.shape[1]
    unit, overlap, power, measured = splat(f32(1) / f32(n * n)), none, none, none
    for b in range(amplitude.shape[0]):
        for i in range(n):
            a, model = load(amplitude, (b, i, 0)), _power(room.waves[b], i) * unit
            overlap = overlap + where_bad(a, none, a * root(model))
            power = power + where_bad(a, none, model)
            measured = measured + where_bad(a, none, a * a)
    explained = total(overlap) ** 2 / max(total(power) * total(measured), f32(1e-30))
    return np.sqrt(max(f32(0), f32(1) - explained))
