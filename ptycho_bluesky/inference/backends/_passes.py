"""ProbeViT on the CPU but for its layers: from frames to what those are shown, and from what they say to patches.

Each of the entry functions works on a batch, without the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ptycho_bluesky.inference.backends._steps import (
    advance,
    believe,
    entry,
    f32,
    illuminate,
    jit,
    look_ahead,
    look_up,
    misfit,
    scale,
    step,
)
from ptycho_bluesky.transforms import LANES, from_waves, inverse, larger, load, root, splat, store, total, transpose

__all__ = ["conclude", "look_again", "measure", "prepare"]

FAR = 3.0
"""Numbers that the network sees are cut to this range about 0."""


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
        from_waves(room.waves, 0, s, strip)
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
        counts, shown = believe(frames[k], beam.good, room), images[k]
        lit[k] = counts > 0
        scale(beam, counts, room)
        look_up(beam, room, amplitudes[k])
        _correlate(beam, room, shown, 5)
        _portray(beam, room, shown)
        room.object[:, :, :, 0] = f32(1)
        room.object[:, :, :, 1] = f32(0)
        for turn in range(beam.iterations):
            look_ahead(room)
            step(beam, room.object[2], amplitudes[k], room, room.object[3])
            if turn == 0:
                _show(room.object[3], f32(0), shown, 0)
            advance(beam, room)
        _show(room.object[0], f32(1), shown, 2)
        objects[k] = room.object[0]
        _to_tokens(shown, patch, tokens[k])


@entry
def measure(beam: Any, frames: Any, room: Any, amplitudes: Any) -> None:
    """Write the amplitudes (B, strips, N, 16) of frames (B, N, N), -1 where bad, and no more of :func:`prepare`."""
    for k in range(frames.shape[0]):
        scale(beam, believe(frames[k], beam.good, room), room)
        look_up(beam, room, amplitudes[k])


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
        step(beam, objects[k], amplitudes[k], room, room.object[3])
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
        illuminate(beam, objects[k], room)
        misfits[k] = misfit(amplitudes[k], room)
        _turn(beam.share, objects[k], made[0, k], made[1, k], made[2, k])
