"""Rows and columns."""

from __future__ import annotations

import numpy as np

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment.patterns._pattern import ScanPattern, few_enough, positive

__all__ = ["raster", "snake"]


def _grid(name: str, height_m: float, width_m: float, step_m: float, snaking: bool) -> ScanPattern:
    positive(step_m=step_m)
    if not (0 <= height_m < float("inf") and 0 <= width_m < float("inf")):
        raise PlanError(f"{name}: height {height_m} m and width {width_m} m must be finite and not negative")
    few_enough(name, (height_m / step_m + 1) * (width_m / step_m + 1))
    rows, columns = (int(np.floor(side / step_m + 1e-9)) + 1 for side in (height_m, width_m))
    y, x = ((np.arange(n) - (n - 1) / 2) * step_m for n in (rows, columns))
    grid = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    if snaking:
        grid[1::2] = grid[1::2, ::-1]
    parameters = {"height_m": height_m, "width_m": width_m, "step_m": step_m}
    lines = tuple((row * columns, (row + 1) * columns) for row in range(rows))
    return ScanPattern(name, grid.reshape(-1, 2), parameters, (rows, columns), snaking, lines)


def raster(height_m: float, width_m: float, step_m: float) -> ScanPattern:
    """Return rows from left to right, top to bottom, centred on 0; height, width and step in metres."""
    return _grid("raster", height_m, width_m, step_m, snaking=False)


def snake(height_m: float, width_m: float, step_m: float) -> ScanPattern:
    """Return a raster whose every second row runs backwards, no long way back; height, width and step in metres."""
    return _grid("snake", height_m, width_m, step_m, snaking=True)
