"""Random specimens by the thousand, to train networks on: great variety, no likeness to any test pattern."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ptycho_bluesky.optics._specimens import power_law_field, transmission

__all__ = ["random_specimen"]

Material = npt.NDArray[np.float32]

OVERSAMPLING = 2
"""Shapes are drawn this much larger and averaged down: smooth edges."""


def random_specimen(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    phase_rad: tuple[float, float] = (0.2, 1.6),
    absorption: tuple[float, float] = (0.0, 0.35),
) -> npt.NDArray[np.complex64]:
    """Return a random specimen: polygons, ellipses, lines, random fields, or mixtures; never a star.

    Phase and amplitude share one map of the material, as in a sample of one substance.

    Parameters
    ----------
    shape:
        (Y, X) pixels.
    rng:
        Chooses everything; the same state gives the same specimen.
    phase_rad, absorption:
        Ranges for full thickness (see ``transmission``), drawn evenly.

    Returns
    -------
    numpy.ndarray
        (Y, X) complex64.
    """
    kind = rng.integers(0, 6)
    if kind == 0:
        material = _random_field(shape, rng)
    elif kind == 1:
        material = _drawn(shape, rng, blobs=True, lines=False)
    elif kind == 2:
        material = _drawn(shape, rng, blobs=False, lines=True)
    elif kind == 3:
        material = _drawn(shape, rng, blobs=True, lines=True)
    elif kind == 4:  # structures on a substrate of uneven thickness
        share = float(rng.uniform(0.2, 0.8))
        both = bool(rng.random() < 0.5)
        material = share * _drawn(shape, rng, blobs=True, lines=both) + (1 - share) * _random_field(shape, rng)
    else:  # a texture inside shapes
        material = _drawn(shape, rng, blobs=True, lines=bool(rng.random() < 0.5)) * _random_field(shape, rng)
    if rng.random() < 0.15:
        material = 1 - material
    return transmission(material, float(rng.uniform(*phase_rad)), float(rng.uniform(*absorption)))


def _random_field(shape: tuple[int, int], rng: np.random.Generator) -> Material:
    """Return a power-law field from 0 to 1, sometimes cut into two levels with soft edges."""
    field = power_law_field(shape, rng, float(rng.uniform(1.0, 2.2)), float(max(shape)))
    if rng.random() < 0.5:
        edge = float(rng.uniform(0.05, 0.4))
        return np.asarray(np.clip((field - float(rng.uniform(-0.6, 0.6))) / edge + 0.5, 0, 1))
    low, high = float(field.min()), float(field.max())
    return np.asarray((field - low) / max(high - low, 1e-6))


def _drawn(shape: tuple[int, int], rng: np.random.Generator, *, blobs: bool, lines: bool) -> Material:
    """Return polygons, ellipses and lines of random thickness, from 0 to 1."""
    height, width = (OVERSAMPLING * side for side in shape)
    canvas = Image.new("L", (width, height), 0)
    draw, size = ImageDraw.Draw(canvas), min(height, width)
    if blobs:
        for _ in range(int(rng.integers(1, 25))):
            middle, value = rng.uniform(0, (width, height)), int(rng.integers(0, 256))
            points = _polygon(size, rng) if rng.random() < 0.5 else _ellipse(size, rng)
            draw.polygon((points + middle).ravel().tolist(), fill=value)
    if lines:
        for _ in range(int(rng.integers(2, 30))):
            ends, value = (
                rng.uniform(0, (width, height), (2, 2)),
                255 if rng.random() < 0.5 else int(rng.integers(0, 256)),
            )
            draw.line(ends.ravel().tolist(), fill=value, width=int(rng.integers(1, max(3, size // 14))))
    small = np.asarray(canvas.reduce(OVERSAMPLING), dtype=np.float32)
    return np.asarray(small / 255, dtype=np.float32)


def _polygon(size: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return rng.normal(0, size * rng.uniform(0.025, 0.26), (int(rng.integers(3, 7)), 2))


_CIRCLE = np.exp(2j * np.pi * np.arange(40) / 40)


def _ellipse(size: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    a, b = size * rng.uniform(0.01, 0.21, 2)
    points = (a * _CIRCLE.real + 1j * b * _CIRCLE.imag) * np.exp(1j * rng.uniform(0, np.pi))
    return np.stack([points.real, points.imag], axis=1)
