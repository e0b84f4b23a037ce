"""Patterns cut to a polygon: a region that somebody has drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment.patterns._grids import snake
from ptycho_bluesky.experiment.patterns._pattern import FloatArray, Lines, ScanPattern, lines_of, positive
from ptycho_bluesky.experiment.patterns._spirals import fermat

__all__ = ["inside", "region", "within"]

CORNERS = 3


def _polygon(vertices_m: npt.ArrayLike) -> FloatArray:
    vertices = np.array(vertices_m, np.float64)
    if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < CORNERS or not np.isfinite(vertices).all():
        raise PlanError(f"vertices_m have shape {vertices.shape}; allowed is (K, 2) = (y, x), K of 3 or more, finite")
    return vertices


def inside(positions_m: npt.ArrayLike, vertices_m: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return for (N, 2) positions whether they lie in the polygon of (K, 2) vertices; the last is joined to the first.

    A ray from an inner place crosses the edges an odd number of times (Shimrat, Commun. ACM 5, 434 (1962)); of
    polygons that cross themselves, the even-odd rule.
    """
    y, x = np.asarray(positions_m, np.float64).T
    vertices = _polygon(vertices_m)
    found = np.zeros(len(y), bool)
    for (ay, ax), (by, bx) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        crosses = (ay > y) != (by > y)
        if crosses.any():
            found ^= crosses & (x < ax + (y - ay) * (bx - ax) / (by - ay if by != ay else 1.0))
    return found


def within(pattern: ScanPattern, vertices_m: npt.ArrayLike) -> ScanPattern:
    """Return the positions of `pattern` that lie in a polygon, in their order; a line that leaves it becomes two.

    `vertices_m` are its corners, (K, 2) = (y, x) in metres.

    Raises
    ------
    PlanError
        When none lies in it.
    """
    vertices = _polygon(vertices_m)
    kept = np.flatnonzero(inside(pattern.positions, vertices))
    if not len(kept):
        (top, left), (bottom, right) = vertices.min(axis=0) * 1e6, vertices.max(axis=0) * 1e6
        raise PlanError(
            f"no position of pattern {pattern.name!r} lies in the polygon, which spans y {top:.4g} to {bottom:.4g} um "
            f"and x {left:.4g} to {right:.4g} um: take a smaller step, or give the vertices as (y, x) in metres"
        )
    lines: Lines = ()
    if pattern.lines:
        row = np.repeat(np.arange(len(pattern.lines)), [stop - start for start, stop in pattern.lines])
        gaps = kept - np.arange(len(kept))  # grows where positions were left out
        lines = lines_of(np.stack([row[kept], gaps], axis=1))
    parameters = {**pattern.parameters, "vertices_m": vertices.tolist()}
    return replace(pattern, positions=pattern.positions[kept], parameters=parameters, shape=None, lines=lines)


def region(
    vertices_m: npt.ArrayLike, step_m: float, fill: Literal["snake", "fermat"] = "snake", margin_m: float = 0.0
) -> ScanPattern:
    """Return a pattern that fills a polygon.

    Parameters
    ----------
    vertices_m:
        (K, 2) corners (y, x), metres; the last is joined to the first.
    step_m:
        From position to position, metres.
    fill:
        ``"snake"``, whose rows can be flown, or ``"fermat"``.
    margin_m:
        How far the polygon is enlarged from its middle, metres: half a probe, for full overlap at its rim.

    Raises
    ------
    PlanError
        When no position lies in it, or an argument is not allowed.
    """
    positive(step_m=step_m)
    if fill not in ("snake", "fermat") or not 0 <= margin_m < float("inf"):
        raise PlanError(f"region: fill is {fill!r}, allowed are 'snake', 'fermat'; margin_m is {margin_m}, 0 or more")
    vertices = _polygon(vertices_m)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    middle, reach = (low + high) / 2, (high - low) / 2
    grown = middle + (vertices - middle) * (1 + margin_m / np.maximum(reach, 1e-15))
    height, width = 2 * (reach + margin_m)
    box = snake(height, width, step_m) if fill == "snake" else fermat(height, width, step_m)
    cut = within(replace(box, positions=box.positions + middle), grown)
    parameters = {"vertices_m": vertices.tolist(), "step_m": step_m, "fill": fill, "margin_m": margin_m}
    return replace(cut, name="region", parameters=parameters, snaking=False)
