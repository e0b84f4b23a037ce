"""How far positions are from the true ones, in what data can tell of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import ReconstructionError

__all__ = ["position_residual"]


def position_residual(found: npt.ArrayLike, true: npt.ArrayLike, affine: bool = True) -> float:
    """Return the distance of positions from the true ones, root of the mean square over frames.

    Parameters
    ----------
    found, true:
        (N, 2), both in the same unit, which is that of the result.
    affine:
        True to leave out the best affine map between the two, which data tell weakly at the best: the object takes it
        over. False to leave out their shift alone, which data cannot tell.

    Raises
    ------
    ReconstructionError
        When the shapes are not both (N, 2).
    """
    ends, begins = np.asarray(found, np.float64), np.asarray(true, np.float64)
    if ends.shape != begins.shape or ends.ndim != 2 or ends.shape[1] != 2:
        raise ReconstructionError(f"positions have shapes {ends.shape} and {begins.shape}; both must be (N, 2)")
    apart = ends - begins - (ends - begins).mean(axis=0)
    if affine:
        centered = begins - begins.mean(axis=0)
        apart = apart - centered @ np.linalg.lstsq(centered, apart, rcond=1e-6)[0]
    return float(np.sqrt((apart**2).sum(axis=1).mean()))
