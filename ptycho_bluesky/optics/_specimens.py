"""Specimens with structure to look at: a test star and a foam."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.optics._material import checked_shape, cover, power_law_field, transmission

__all__ = ["random_foam", "siemens_star"]

ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float64]


def siemens_star(
    shape: tuple[int, int],
    *,
    spokes: int = 36,
    inner_radius: float = 0.06,
    outer_radius: float = 0.46,
    rings: int = 4,
    gap: float = 0.018,
    roughness_px: float = 0.25,
    phase_rad: float = 0.8,
    absorption: float = 0.1,
    seed: int = 0,
) -> ComplexArray:
    """Return a Siemens star as it is made: spokes in rings with gaps between, an open middle, slightly rough edges.

    Parameters
    ----------
    shape:
        (Y, X) pixels.
    spokes:
        Periods around the circle.
    inner_radius, outer_radius, gap:
        Where the spokes begin and end, and the width of the gaps between the rings, in units of the shorter side.
    rings:
        Rings of spokes; their widths grow outwards in proportion to their radii.
    roughness_px:
        Standard deviation of the edges' places, pixels.
    phase_rad, absorption:
        Of the metal.
    seed:
        Of the roughness and of the star's rotation.

    Raises
    ------
    DatasetError
        When a side is below 16 pixels, a value that must be above 0 is not, or the radii are not in order.
    """
    checked_shape("siemens_star", shape, spokes=spokes, rings=rings, inner_radius=inner_radius)
    side, rng = min(shape), np.random.default_rng(seed)
    if not inner_radius < outer_radius:
        raise DatasetError(f"siemens_star: inner_radius {inner_radius} must be below outer_radius {outer_radius}")
    y, x = (np.arange(size, dtype=np.float64) - size // 2 for size in shape)
    r = np.maximum(np.hypot(y[:, None], x[None]), 0.5)
    turn = (np.arctan2(y[:, None], x[None]) / (2 * np.pi) + rng.random() / spokes) * spokes
    # Distance in pixels from the nearest edge of a spoke, along the arc, positive inside.
    spoke = (0.25 - np.abs(np.mod(turn, 1.0) - 0.5)) * (2 * np.pi * r / spokes)
    inside = np.full(shape, -np.inf)
    radii = np.geomspace(inner_radius, outer_radius, rings + 1) * side
    for k, (low, high) in enumerate(itertools.pairwise(radii)):
        low = low if k == 0 else low + gap * side
        inside = np.maximum(inside, np.minimum(np.minimum(r - low, high - r), spoke))
    rough = roughness_px * power_law_field(shape, rng, 2.0, 12.0)
    return transmission(cover(inside + rough), phase_rad, absorption)


def random_foam(
    shape: tuple[int, int],
    *,
    bubble_px: float = 36.0,
    wall_px: float = 3.0,
    sheets: int = 2,
    phase_rad: float = 1.2,
    absorption: float = 0.12,
    seed: int = 0,
) -> ComplexArray:
    """Return the projection of a foam: `sheets` layers of cells of unlike size, with walls, thicker where they meet.

    Parameters
    ----------
    shape:
        (Y, X) pixels.
    bubble_px, wall_px:
        Mean size of a bubble and thickness of a wall, pixels.
    sheets:
        Layers on top of each other.
    phase_rad, absorption:
        Of the thickest place.
    seed:
        Chooses everything else.
    """
    checked_shape("random_foam", shape, bubble_px=bubble_px, wall_px=wall_px, sheets=sheets)
    rng, total = np.random.default_rng(seed), np.zeros(shape)
    pixels = np.indices(shape, dtype=np.float64).reshape(2, -1).T
    for _ in range(sheets):
        total += _foam_sheet(shape, pixels, bubble_px * rng.uniform(0.7, 1.3), wall_px, rng)
    return transmission(total / total.max(), phase_rad, absorption)


def _foam_sheet(
    shape: tuple[int, int], pixels: FloatArray, bubble: float, wall: float, rng: np.random.Generator
) -> FloatArray:
    from scipy.spatial import cKDTree  # a console that makes no foam shall not wait for it

    pad = 2 * bubble
    count = max(4, int((shape[0] + 2 * pad) * (shape[1] + 2 * pad) / bubble**2))
    seeds = rng.uniform(-pad, np.array(shape) + pad, (count, 2))
    seeds = seeds[rng.random(count) > 0.25 * (rng.random(count) < 0.5)]
    bends = [bubble * 0.08 * power_law_field(shape, rng, 2.0, 2 * bubble).ravel() for _ in range(2)]
    near = np.asarray(cKDTree(seeds).query(pixels + np.stack(bends, axis=1), k=3)[0])
    first, second, third = near.T.reshape(3, *shape)
    edge = (second - first) / 2  # distance to the wall's middle, nearly
    walls = cover(wall / 2 - edge)
    borders = np.exp(-(((third - first) / (2.5 * wall)) ** 2))  # Plateau borders, where three bubbles meet
    film = 0.12 * np.clip(edge / bubble, 0, 1) ** 0.5  # the bubble's bottom and top
    return np.asarray(walls * 0.7 + borders * 0.6 + film)
