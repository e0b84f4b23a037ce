"""The Hilbert curve: an order of scan positions in which neighbours on the list are neighbours on the sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["hilbert_order"]


def hilbert_order(positions: npt.NDArray[np.floating], bits: int = 16) -> npt.NDArray[np.int64]:
    """Return the indices that sort `positions` along a Hilbert curve.

    Contiguous ranges of that order are compact patches of the sample: batches stay in cache, and equal-count ranges
    divided over workers have short borders. Vectorised form of the bit manipulation by Skilling,
    AIP Conference Proceedings 707, 381 (2004), in two dimensions.

    Parameters
    ----------
    positions:
        (N, 2), any unit.
    bits:
        Depth of the curve; 16 tells 65,536 steps a side apart.
    """
    positions = np.asarray(positions, dtype=np.float64)
    if len(positions) == 0:
        return np.empty(0, np.int64)
    side = float(np.ptp(positions, axis=0).max()) or 1.0
    cells = ((positions - positions.min(axis=0)) / side * ((1 << bits) - 1)).astype(np.int64)
    x, y = cells[:, 0].copy(), cells[:, 1].copy()
    index = np.zeros(len(cells), np.int64)
    size = 1 << (bits - 1)
    while size:
        right, upper = (x & size > 0).astype(np.int64), (y & size > 0).astype(np.int64)
        index += size * size * ((3 * right) ^ upper)
        turn = upper == 0
        mirror = turn & (right == 1)
        x[mirror], y[mirror] = size - 1 - x[mirror], size - 1 - y[mirror]
        x[turn], y[turn] = y[turn].copy(), x[turn].copy()
        size >>= 1
    return np.argsort(index, kind="stable")
