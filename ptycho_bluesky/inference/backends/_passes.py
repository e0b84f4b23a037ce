"""ProbeViT's physics for CPUs: one frame at a time, in the second-level cache, sixteen numbers at a time.

What :class:`ProbeViT` says in torch, said again without temporaries; tests hold the two together. Object and waves lie
in strips of 16 columns, (strips, N, 2, 16) float32, what was measured in the order in which a strip's transform leaves
its spectrum, transposed (see :mod:`ptycho_bluesky.transforms`), so that no pixel is moved but by a transpose in
registers. Each entry function works on a batch without the GIL.
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
    inverse,
    larger,
    load,
    root,
    splat,
    store,
    total,
    transpose,
    where_bad,
)

__all__ = ["Beam", "Room", "conclude", "look_again", "measure", "prepare", "room_for", "strips_of", "waves_of"]

_F = TypeVar("_F", bound=Callable[..., Any])

f32: Any = np.float32
jit: Callable[[_F], _F] = numba.njit(
    nogil=True, error_model="numpy", fastmath=FASTMATH, no_cpython_wrapper=True, no_cfunc_wrapper=True
)
FAR = 3.0
"""Numbers that the network sees are cut to this range about 0."""

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


def waves_of(strips: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
    """Undo :func:`strips_of`."""
    cut = np.moveaxis(strips[..., 0, :] + np.complex64(1j) * strips[..., 1, :], -3, -2)
    return np.ascontiguousarray(cut.reshape(*cut.shape[:-2], -1))


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
def _believe(frame: Any, good: Any, room: Any) -> Any:
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
def _scale(beam: Any, counts: Any, room: Any) -> None:
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
def _to_waves(strip: Any, waves: Any, m: int, s: int) -> None:
    for b in range(waves.shape[0]):
        for plane in range(2):
            transpose(strip, (b * LANES, plane, 0), 2 * LANES, waves, (b, m, s * LANES, plane, 0), 2 * LANES)


@jit
def _from_waves(waves: Any, m: int, s: int, strip: Any) -> None:
    for b in range(waves.shape[0]):
        for plane in range(2):
            transpose(waves, (b, m, s * LANES, plane, 0), 2 * LANES, strip, (b * LANES, plane, 0), 2 * LANES)


@jit
def _illuminate(beam: Any, obj: Any, room: Any) -> None:
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
            _to_waves(strip, room.waves, m, s)
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
def _step(beam: Any, obj: Any, amplitude: Any, room: Any, change: Any) -> None:
    """Write the change that one projection on `amplitude` (strips, N, 16) asks for: ``Beam.step``."""
    n, strip = beam.plan.length, room.strip
    _illuminate(beam, obj, room)
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
            _from_waves(room.waves, m, s, strip)
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
def _advance(beam: Any, room: Any) -> None:
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
def _look_ahead(room: Any) -> None:
    obj, before, ahead = room.object[0], room.object[1], room.object[2]
    momentum = splat(f32(MOMENTUM))
    for s in range(obj.shape[0]):
        for i in range(obj.shape[1]):
            for plane in range(2):
                o = load(obj, (s, i, plane, 0))
                store(ahead, (s, i, plane, 0), o + momentum * (o - load(before, (s, i, plane, 0))))


@jit
def _cut(value: Any) -> Any:
    low, none = splat(f32(-FAR)), splat(f32(0))
    return none - larger(none - larger(value, low), low)


@jit
def _show(strips: Any, less: Any, images: Any, c: int) -> None:
    """Write strips, their real part lessened, as two images (C, N, N) from channel `c` on."""
    shift = splat(less)
    for s in range(strips.shape[0]):
        for i in range(strips.shape[1]):
            store(images, (c, i, s * LANES), _cut(load(strips, (s, i, 0, 0)) - shift))
            store(images, (c + 1, i, s * LANES), _cut(load(strips, (s, i, 1, 0))))


@jit
def _correlate(beam: Any, room: Any, images: Any, c: int) -> None:
    """Write the transform of the excess intensity, its centre in the middle, as an image."""
    n, strip, excess, strips = beam.plan.length, room.strip, room.maps[2], room.waves.shape[0]
    for b in range(strips):
        wave = room.waves[b, 0]
        for i in range(n):
            for lane in range(LANES):
                wave[i, 0, lane] = excess[beam.rows[b * LANES + lane], beam.rows[i]]
                wave[i, 1, lane] = f32(0)
        inverse(wave, beam.plan)
    unit = splat(f32(2))  # 2 n of the network, 1 / n of the transform
    for s in range(strips):
        _from_waves(room.waves, 0, s, strip)
        inverse(strip, beam.plan)
        column = (s * LANES + n // 2) % n
        for i in range(n):
            store(images, (c, (i + n // 2) % n, column), _cut(load(strip, (i, 0, 0)) * unit))


@jit
def _portray(beam: Any, room: Any, images: Any) -> None:
    """Write the images that need no transform: light, amplitudes, the probe."""
    n, half, intensity = beam.plan.length, f32(beam.plan.length / 2), room.maps[1]
    for i in range(n):
        for j in range(n):
            seen = intensity[i, j] >= 0
            amplitude = np.sqrt(intensity[i, j]) if seen else f32(0)
            empty = np.sqrt(beam.expected[i, j]) if seen else f32(0)
            images[4, i, j] = beam.light[i, j]
            images[6, i, j] = amplitude * half
            images[7, i, j] = (amplitude - empty) * half
            images[8, i, j] = beam.wave[0, i, j]
            images[9, i, j] = beam.wave[1, i, j]


@jit
def _look_up(beam: Any, room: Any, amplitude: Any) -> None:
    n, intensity = beam.plan.length, room.maps[1]
    for b in range(amplitude.shape[0]):
        for i in range(n):
            for lane in range(LANES):
                value = intensity[beam.rows[b * LANES + lane], beam.rows[i]]
                amplitude[b, i, lane] = np.sqrt(value) if value >= 0 else f32(-1)


@jit
def _to_tokens(images: Any, patch: int, tokens: Any) -> None:
    """Write images (C, N, N) as tokens (T, C * patch**2), in the order of ``pixel_unshuffle``."""
    count = images.shape[1] // patch
    for y in range(images.shape[1]):
        for x in range(count):
            token = tokens[(y // patch) * count + x]
            for c in range(images.shape[0]):
                first = c * patch * patch + (y % patch) * patch
                for d in range(patch):
                    token[first + d] = images[c, y, x * patch + d]


@jit
def _from_tokens(tokens: Any, patch: int, images: Any) -> None:
    """Undo :func:`_to_tokens`."""
    count = images.shape[1] // patch
    for y in range(images.shape[1]):
        for x in range(count):
            token = tokens[(y // patch) * count + x]
            for c in range(images.shape[0]):
                first = c * patch * patch + (y % patch) * patch
                for d in range(patch):
                    images[c, y, x * patch + d] = token[first + d]


@jit
def _pack(images: Any, factor: int, packed: Any) -> None:
    """Write images (C, N, N) with `factor` x `factor` pixels in one, channels last: (N / f, N / f, f * f * C).

    Channels go by column in the pixel, row in the pixel, image, so that a transpose in registers writes them.
    """
    channels, n, _ = images.shape
    for y in range(n):
        for x in range(0, n, LANES):
            for c in range(0, channels, LANES):
                there = y // factor, x // factor, (y % factor) * channels + c
                transpose(images, (c, y, x), n * n, packed, there, factor * channels)


@entry
def prepare(beam: Any, frames: Any, room: Any, images: Any, tokens: Any, patch: int, state: Any) -> None:
    """Take frames through the physics steps, and write what the transformer is shown.

    Parameters
    ----------
    beam, room:
        See there.
    frames:
        (B, N, N) counts.
    images:
        (B, 10, N, N) to write.
    tokens:
        (B, T, 10 * patch**2) to write: the same.
    patch:
        Side of a token, pixels.
    state:
        Amplitudes (B, strips, N, 16) measured, -1 where bad; objects (B, strips, N, 2, 16), the estimates; and (B,)
        whether a good pixel has a count. To write.
    """
    amplitudes, objects, lit = state
    for k in range(frames.shape[0]):
        counts, shown = _believe(frames[k], beam.good, room), images[k]
        lit[k] = counts > 0
        _scale(beam, counts, room)
        _look_up(beam, room, amplitudes[k])
        _correlate(beam, room, shown, 5)
        _portray(beam, room, shown)
        room.object[:, :, :, 0] = f32(1)
        room.object[:, :, :, 1] = f32(0)
        for turn in range(beam.iterations):
            _look_ahead(room)
            _step(beam, room.object[2], amplitudes[k], room, room.object[3])
            if turn == 0:
                _show(room.object[3], f32(0), shown, 0)
            _advance(beam, room)
        _show(room.object[0], f32(1), shown, 2)
        objects[k] = room.object[0]
        _to_tokens(shown, patch, tokens[k])


@entry
def measure(beam: Any, frames: Any, objects: Any, room: Any, misfits: Any) -> None:
    """Write the misfits (B,) of objects (B, strips, N, 2, 16) and frames (B, N, N)."""
    amplitude = np.empty((objects.shape[1], objects.shape[2], LANES), f32)
    for k in range(frames.shape[0]):
        _scale(beam, _believe(frames[k], beam.good, room), room)
        _look_up(beam, room, amplitude)
        _illuminate(beam, objects[k], room)
        misfits[k] = _misfit(amplitude, room)


@jit
def _add(strips: Any, change: Any) -> None:
    for s in range(strips.shape[0]):
        for i in range(strips.shape[1]):
            for plane in range(2):
                value = load(strips, (s, i, plane, 0)) + load(change, (plane, i, s * LANES))
                store(strips, (s, i, plane, 0), value)


@entry
def look_again(
    beam: Any, tokens: Any, patch: int, room: Any, images: Any, state: Any, factor: int, packed: Any
) -> None:
    """Add the transformer's correction to the objects, and write where it contradicts the measured frame.

    Parameters
    ----------
    beam, room, images, state, patch:
        As :func:`prepare` left them.
    tokens:
        (B, T, (2 + features) * patch**2) from the transformer.
    factor:
        Pixels to one, along each axis, for the convolutions.
    packed:
        (B, N / f, N / f, f * f * channels) to write: what they are shown, see :func:`_pack`.
    """
    amplitudes, objects, _ = state
    features = room.change.shape[0] - 2
    for k in range(tokens.shape[0]):
        _from_tokens(tokens[k], patch, room.change)
        _add(objects[k], room.change)
        _step(beam, objects[k], amplitudes[k], room, room.object[3])
        room.seen[:features] = room.change[2:]
        _show(objects[k], f32(1), room.seen, features)
        _show(room.object[3], f32(0), room.seen, features + 2)
        room.seen[features + 4 : features + 9] = images[k, :5]
        _pack(room.seen, factor, packed[k])


@jit
def _unpack(packed: Any, factor: int, change: Any) -> None:
    """Write (N / f, N / f, 2 * f * f), channels in the order of ``pixel_shuffle``, as two images."""
    for i in range(packed.shape[0]):
        for j in range(packed.shape[1]):
            for c in range(2):
                for y in range(factor):
                    for x in range(factor):
                        value = packed[i, j, (c * factor + y) * factor + x]
                        change[c, i * factor + y, j * factor + x] = value


@jit
def _misfit(amplitude: Any, room: Any) -> Any:
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


@jit
def _turn(share: Any, strips: Any, real: Any, imag: Any, size: Any) -> None:
    """Write strips as images (N, N) whose mean under `share` has phase 0, and their modulus."""
    none = splat(f32(0))
    along, across = none, none
    for s in range(strips.shape[0]):
        for i in range(strips.shape[1]):
            light = load(share, (s, i, 0))
            along = along + light * load(strips, (s, i, 0, 0))
            across = across + light * load(strips, (s, i, 1, 0))
    x, y = total(along), total(across)
    length = max(np.sqrt(x * x + y * y), f32(1e-30))
    c, d = splat(x / length), splat(y / length)
    for s in range(strips.shape[0]):
        for i in range(strips.shape[1]):
            o, oi = load(strips, (s, i, 0, 0)), load(strips, (s, i, 1, 0))
            store(real, (i, s * LANES), o * c + oi * d)
            store(imag, (i, s * LANES), oi * c - o * d)
            store(size, (i, s * LANES), root(o * o + oi * oi))


@entry
def conclude(beam: Any, packed: Any, factor: int, room: Any, state: Any, made: Any, misfits: Any) -> None:
    """Add the last change to the objects and write what they are.

    Parameters
    ----------
    beam, room, state, factor:
        As :func:`look_again` left them.
    packed:
        (B, N / f, N / f, 2 * f * f) from the convolutions.
    made:
        (3, B, N, N) to write: real and imaginary part, turned so that the mean in the beam has phase 0, and modulus.
    misfits:
        (B,) to write.
    """
    amplitudes, objects, _ = state
    for k in range(packed.shape[0]):
        _unpack(packed[k], factor, room.change)
        _add(objects[k], room.change)
        _illuminate(beam, objects[k], room)
        misfits[k] = _misfit(amplitudes[k], room)
        _turn(beam.share, objects[k], made[0, k], made[1, k], made[2, k])
