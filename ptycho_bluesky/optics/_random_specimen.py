"""Random specimens by the thousand, to train networks on: great variety, no likeness to any test pattern."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from ptycho_bluesky.optics._material import power_law_field, transmission

__all__ = ["random_specimen"]

Material = npt.NDArray[np.float32]
Pair = npt.NDArray[np.int_]
Layer = Callable[[ImageDraw.ImageDraw, Pair, np.random.Generator], None]

OVERSAMPLING = 2
"""Shapes are drawn this much larger and averaged down: smooth edges."""

_CIRCLE = np.exp(2j * np.pi * np.arange(40) / 40)


def random_specimen(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    phase_rad: tuple[float, float] = (0.2, 1.6),
    absorption: tuple[float, float] = (0.0, 0.35),
) -> npt.NDArray[np.complex64]:
    """Return a random specimen: polygons, ellipses, lines, arcs, gratings, random fields, or mixtures; never a star.

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
    kind = rng.integers(0, 7)
    if kind == 0:
        material = _random_field(shape, rng)
    elif kind == 1:
        material = _drawn(shape, rng, _blobs)
    elif kind == 2:
        material = _drawn(shape, rng, _lines)
    elif kind == 3:
        material = _drawn(shape, rng, _gratings)
    elif kind == 4:
        material = _drawn(shape, rng, _blobs, _lines, _gratings)
    elif kind == 5:  # structures on a substrate of uneven thickness
        share = float(rng.uniform(0.2, 0.8))
        material = share * _drawn(shape, rng, _blobs, _lines) + (1 - share) * _random_field(shape, rng)
    else:  # a texture inside shapes
        material = _drawn(shape, rng, _blobs) * _random_field(shape, rng)
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


def _drawn(shape: tuple[int, int], rng: np.random.Generator, *layers: Layer) -> Material:
    """Return shapes of random thickness, from 0 to 1: of one kind of layer, or of some of several; at times blurred."""
    height, width = (OVERSAMPLING * side for side in shape)
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    chosen = [layer for layer in layers if rng.random() < 0.75] or list(layers[:1])
    for layer in chosen:
        layer(draw, np.array([width, height]), rng)
    small = canvas.reduce(OVERSAMPLING)
    if rng.random() < 0.25:
        small = small.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 4))))
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _thickness(rng: np.random.Generator) -> int:
    return 255 if rng.random() < 0.3 else int(rng.integers(0, 256))


def _blobs(draw: ImageDraw.ImageDraw, size: Pair, rng: np.random.Generator) -> None:
    """Draw polygons and ellipses."""
    side = int(size.min())
    for _ in range(int(rng.integers(1, 25))):
        if rng.random() < 0.5:
            points = rng.normal(0, side * rng.uniform(0.025, 0.26), (int(rng.integers(3, 7)), 2))
        else:
            a, b = side * rng.uniform(0.01, 0.21, 2)
            turned = (a * _CIRCLE.real + 1j * b * _CIRCLE.imag) * np.exp(1j * rng.uniform(0, np.pi))
            points = np.stack([turned.real, turned.imag], axis=1)
        draw.polygon((points + rng.uniform(0, size)).ravel().tolist(), fill=_thickness(rng))


def _lines(draw: ImageDraw.ImageDraw, size: Pair, rng: np.random.Generator) -> None:
    """Draw straight lines of all widths, and a few arcs."""
    widest = max(3, int(size.min()) // 14)
    for _ in range(int(rng.integers(2, 30))):
        ends, width = rng.uniform(0, size, (2, 2)), int(rng.integers(1, widest))
        if rng.random() < 0.85:
            draw.line(ends.ravel().tolist(), fill=_thickness(rng), width=width)
        else:
            box = [*ends.min(axis=0), *ends.max(axis=0)]
            first = float(rng.uniform(0, 360))
            draw.arc(box, first, first + float(rng.uniform(60, 360)), fill=_thickness(rng), width=width)


def _gratings(draw: ImageDraw.ImageDraw, size: Pair, rng: np.random.Generator) -> None:
    """Draw fields of parallel bars, upright ones among them, as in a test chart or a circuit."""
    for _ in range(int(rng.integers(1, 5))):
        angle = float(rng.choice([0.0, np.pi / 2])) if rng.random() < 0.4 else float(rng.uniform(0, np.pi))
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        pitch, length = float(rng.uniform(4, 40)), float(size.min() * rng.uniform(0.15, 1.0))
        middle, fill = rng.uniform(0, size), _thickness(rng)
        width, count = pitch * rng.uniform(0.25, 0.75), min(30, int(rng.uniform(0.2, 1.2) * size.min() / pitch) + 1)
        corners = (
            np.array([-1, 1, 1, -1])[:, None] * along * length / 2 + np.array([0, 0, 1, 1])[:, None] * across * width
        )
        for k in range(count):
            draw.polygon((middle + corners + across * (k - count / 2) * pitch).ravel().tolist(), fill=fill)
