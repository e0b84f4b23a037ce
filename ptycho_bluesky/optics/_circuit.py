"""A specimen of an integrated circuit's wiring."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.optics._material import checked_shape, transmission

__all__ = ["integrated_circuit"]

ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Rows from and to, columns from and to, pixels with fractions."""


def integrated_circuit(
    shape: tuple[int, int],
    *,
    layers: int = 4,
    pitch_px: float = 12.0,
    phase_rad: float = 1.0,
    absorption: float = 0.15,
    seed: int = 0,
) -> ComplexArray:
    """Return the wiring of an integrated circuit: layers of Manhattan wires, coarser upwards, with vias between.

    Parameters
    ----------
    shape:
        (Y, X) pixels.
    layers:
        Metal layers; odd ones run across, even ones down. Each is wired in some blocks of the chip only.
    pitch_px:
        Of the lowest layer, pixels; each layer up it grows by a third.
    phase_rad, absorption:
        Of the thickest place.
    seed:
        Chooses everything else.
    """
    checked_shape("integrated_circuit", shape, layers=layers, pitch_px=pitch_px)
    rng, total = np.random.default_rng(seed), np.zeros(shape)
    below: list[Box] = []
    for layer in range(layers):
        pitch = pitch_px * 1.35**layer
        metal, vias = np.zeros(shape), np.zeros(shape)
        wires = _wires(shape, pitch, layer % 2 == 0, rng)
        for wire in wires:
            _draw_box(metal, wire)
        half = 0.3 * pitch_px * 1.35 ** max(0, layer - 1)
        for y, x in _crossings(wires, below, rng):
            _draw_box(vias, (y - half, y + half, x - half, x + half))
        total += metal * (0.5 + 0.15 * layer) + 0.6 * vias
        below = wires
    return transmission(total / max(total.max(), 1e-12), phase_rad, absorption)


def _wires(shape: tuple[int, int], pitch: float, across: bool, rng: np.random.Generator) -> list[Box]:
    """Return wires on tracks of `pitch`: in busy blocks, with breaks, jogs and a few wide power rails."""
    tracks, length = (shape[0], shape[1]) if across else (shape[1], shape[0])
    block = 10 * pitch
    busy = rng.choice([0.2, 0.6, 0.95], (int(tracks / block) + 2, int(length / block) + 2))
    boxes: list[Box] = []
    for track in np.arange(pitch * rng.random(), tracks, pitch):
        rail = rng.random() < 0.05
        width = pitch * (0.9 if rail else 0.42)
        if rail:
            boxes.append((track - width / 2, track + width / 2, -pitch, length + pitch))
            continue
        at = -float(rng.uniform(0, 12 * pitch))
        while at < length:
            end = at + pitch * rng.lognormal(2.0, 0.7)
            if rng.random() < busy[int(track / block), max(0, int(at / block))]:
                boxes.append((track - width / 2, track + width / 2, at, end))
                if rng.random() < 0.3:  # a jog: the wire turns to the next track
                    boxes.append((track - width / 2, track + pitch + width / 2, end - width, end))
            at = end + pitch * rng.uniform(0.6, 2.5)
    return boxes if across else [(x0, x1, y0, y1) for y0, y1, x0, x1 in boxes]


def _crossings(above: list[Box], below: list[Box], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return places (y, x) of vias: some of the crossings of two layers' wires."""
    if not above or not below:
        return []
    a, b = np.array(above), np.array(below)
    low = np.maximum(a[:, None, 0::2], b[None, :, 0::2])
    high = np.minimum(a[:, None, 1::2], b[None, :, 1::2])
    crossing = ((high - low) > 1).all(axis=-1) & (rng.random(low.shape[:2]) < 0.15)
    return [(float(y), float(x)) for y, x in ((low + high) / 2)[crossing]]


def _draw_box(image: FloatArray, box: Box) -> None:
    """Lay a box over `image`, its border pixels by the share covered."""
    y0, y1, x0, x1 = box
    top, left = max(0, int(np.floor(y0))), max(0, int(np.floor(x0)))
    bottom, right = min(image.shape[0], int(np.ceil(y1))), min(image.shape[1], int(np.ceil(x1)))
    if top >= bottom or left >= right:
        return
    y, x = np.arange(top, bottom), np.arange(left, right)
    rows = np.clip(np.minimum(y + 1, y1) - np.maximum(y, y0), 0, 1)
    columns = np.clip(np.minimum(x + 1, x1) - np.maximum(x, x0), 0, 1)
    part = image[top:bottom, left:right]
    np.maximum(part, rows[:, None] * columns[None], out=part)
