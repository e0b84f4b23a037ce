"""A specimen of overlapping biological cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.optics._material import checked_shape, cover, power_law_field, transmission

__all__ = ["cells"]

ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float64]


def cells(
    shape: tuple[int, int],
    *,
    cell_px: float = 90.0,
    coverage: float = 1.1,
    phase_rad: float = 1.0,
    absorption: float = 0.06,
    seed: int = 0,
) -> ComplexArray:
    """Return overlapping cells: smooth domes with a membrane, a grainy cytoplasm, a nucleus, vesicles and vacuoles.

    Parameters
    ----------
    shape:
        (Y, X) pixels.
    cell_px:
        Mean diameter of a cell, pixels.
    coverage:
        Area of all cells over that of the field.
    phase_rad, absorption:
        Of the thickest place.
    seed:
        Chooses everything else.
    """
    checked_shape("cells", shape, cell_px=cell_px, coverage=coverage)
    rng, total = np.random.default_rng(seed), np.zeros(shape)
    grain = power_law_field(shape, rng, 1.3, cell_px / 3)
    count = max(3, round(coverage * shape[0] * shape[1] / (np.pi * cell_px**2 / 4)))
    for centre in _spread(count, shape, rng):
        _add_cell(total, grain, centre, cell_px / 2 * rng.lognormal(0, 0.25), rng)
    return transmission(total / max(total.max(), 1e-12), phase_rad, absorption)


def _spread(count: int, shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """Return (count, 2) random places that keep off each other: of five tries the loneliest (Mitchell's method)."""
    places = rng.uniform(-0.1, 1.1, (1, 2)) * shape
    while len(places) < count:
        tries = rng.uniform(-0.1, 1.1, (5, 2)) * shape
        distance = np.hypot(*(tries[:, None] - places[None]).transpose(2, 0, 1)).min(axis=1)
        places = np.concatenate([places, tries[[distance.argmax()]]])
    return np.asarray(places)


def _add_cell(
    total: FloatArray, grain: npt.NDArray[np.float32], centre: FloatArray, radius: float, rng: np.random.Generator
) -> None:
    reach = 1.7 * radius
    low = np.clip(np.floor(centre - reach).astype(int), 0, total.shape)
    high = np.clip(np.ceil(centre + reach).astype(int), 0, total.shape)
    if (low >= high).any():
        return
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    y = np.arange(low[0], high[0])[:, None] - centre[0]
    x = np.arange(low[1], high[1])[None] - centre[1]
    tilt, stretch = rng.uniform(0, np.pi), rng.uniform(0.7, 1.0)
    u, v = x * np.cos(tilt) + y * np.sin(tilt), (y * np.cos(tilt) - x * np.sin(tilt)) / stretch
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    border = np.full(r.shape, radius)
    for order in range(2, 7):
        border += radius * rng.normal(0, 0.10 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    inside = border - r  # pixels, nearly
    body = cover(inside)
    dome = np.sqrt(np.clip(1 - (r / border) ** 2, 0, 1))
    cell = 0.16 * body * np.exp(-(((inside - 1.5) / 1.6) ** 2))  # the membrane, seen edge on
    cell += body * dome * (0.42 + 0.05 * grain[window])
    place = radius * rng.uniform(0, 0.3), rng.uniform(0, 2 * np.pi)
    ny, nx = place[0] * np.sin(place[1]), place[0] * np.cos(place[1])
    nucleus = radius * rng.uniform(0.28, 0.42)
    cell += 0.30 * _ball(y - ny, x - nx, nucleus, rng) + 0.18 * _ball(y - ny, x - nx - nucleus / 3, nucleus / 4, rng)
    for _ in range(int(rng.integers(8, 20))):
        away, turn = radius * rng.uniform(0.35, 0.85), rng.uniform(0, 2 * np.pi)
        size, sign = radius * rng.uniform(0.03, 0.11), rng.choice([1.0, 1.0, -0.7])
        cell += 0.28 * sign * body * dome * _ball(y - away * np.sin(turn), x - away * np.cos(turn), size, rng)
    total[window] += np.maximum(cell, 0) * rng.uniform(0.7, 1.0)


def _ball(y: FloatArray, x: FloatArray, radius: float, rng: np.random.Generator) -> FloatArray:
    """Return the projected thickness of a slightly flattened ball with a visible border, at most 1."""
    tilt, flat = rng.uniform(0, np.pi), rng.uniform(0.65, 1.0)
    r = np.hypot(x * np.cos(tilt) + y * np.sin(tilt), (y * np.cos(tilt) - x * np.sin(tilt)) / flat)
    ball = 0.35 + 0.65 * np.sqrt(np.clip(1 - (r / max(radius, 1.0)) ** 2, 0, 1))
    return np.asarray(cover(radius - r) * ball)
