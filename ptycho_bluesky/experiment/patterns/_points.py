"""Positions as they are given, and positions shaken."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment.patterns._pattern import ScanPattern

__all__ = ["from_positions", "jittered"]


def from_positions(positions_m: npt.ArrayLike, name: str = "list") -> ScanPattern:
    """Return a pattern over the given (N, 2) positions (row, column), in metres, in their order."""
    return ScanPattern(name, np.asarray(positions_m, dtype=np.float64))


def jittered(pattern: ScanPattern, sigma_m: float, seed: int = 0) -> ScanPattern:
    """Return `pattern` with normally distributed offsets of `sigma_m` metres, which break a raster's symmetry.

    It has no fly lines any more; `seed` chooses the offsets.

    Raises
    ------
    PlanError
        When `sigma_m` is negative or not finite.
    """
    if not 0 <= sigma_m < float("inf"):
        raise PlanError(f"jitter is {sigma_m} m; it must be finite and not negative")
    offset = np.random.default_rng(seed).normal(0, sigma_m, pattern.positions.shape)
    parameters = {**pattern.parameters, "jitter_m": sigma_m, "jitter_seed": seed}
    return ScanPattern(pattern.name, pattern.positions + offset, parameters, pattern.shape, pattern.snaking)
