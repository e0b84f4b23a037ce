"""A detector's frame in one pass: checked, masked, turned, moved, binned, cropped to a network's size.

Which row and which column of the result a detector's row and column belong to, if any, says everything that happens to
the places of pixels; so that orientation, centring, cropping and binning cost no pass of their own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["Binner", "Places", "places_for"]

f32: Any = np.float32


class Places(NamedTuple):
    """Where a detector's pixels go."""

    rows: npt.NDArray[np.int64]
    """(H,) row of the result that each row is added to; -1: none."""
    sources: npt.NDArray[np.int64]
    """Columns that go somewhere, in an order in which neighbours go to different places."""
    targets: npt.NDArray[np.int64]
    """Where each of them goes."""
    transposed: bool
    """Rows of the detector are columns of the house's frames: the result must be transposed."""
    size: int
    """Side of the result."""


def places_for(
    given: int,
    binning: int,
    wanted: int,
    *,
    shift: tuple[int, int] = (0, 0),
    transpose: bool = False,
    flip: tuple[bool, bool] = (False, False),
) -> Places:
    """Return the places of a square detector's pixels.

    Parameters
    ----------
    given, binning, wanted:
        As in :class:`Fitting`: pixels of the detector, pixels to one, pixels of the result.
    shift:
        Rows and columns, in the house's orientation, by which frames are rolled, before binning.
    transpose, flip:
        How the detector is mounted (:class:`Orientation`).
    """
    tables, binned = [], given // binning
    for moved, flipped in zip(shift, flip, strict=True):
        place = np.arange(given)
        place = (given - 1 - place if flipped else place) + moved
        place = place % given // binning
        first = binned // 2 - wanted // 2
        inside = (place < binned) & (place >= first) & (place < first + wanted)
        tables.append(np.where(inside, place - first, -1))
    rows, columns = tables[::-1] if transpose else tables
    found = np.flatnonzero(columns >= 0)
    found = found[np.argsort(columns[found], kind="stable")]
    turn = np.arange(len(found)) - np.searchsorted(columns[found], columns[found])  # first, second, ... of its place
    sources = found[np.argsort(turn, kind="stable")]
    return Places(rows, sources, columns[sources], transpose, wanted)


_JIT: Any = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})


@_JIT
def _pass(raw, bad, top, limit, places, work, out):  # type: ignore[no-untyped-def]
    """Add `raw` to `out`; return the number of saturated pixels and the largest value that was added.

    `work` (3, W) holds, of each column, the sum of the rows that go to one row of the result, the saturated pixels and
    the largest value: plain sums, which the compiler makes vectors of.
    """
    work[:], out[:], filled = 0, 0, -1
    line, over, most = work[0], work[1], work[2]
    for r in range(raw.shape[0]):
        if places.rows[r] != filled:
            if filled >= 0:
                _fold(line, places.sources, places.targets, out[filled])
            line[:], filled = 0, places.rows[r]
        for c in range(line.size):
            value = f32(0) if bad[r, c] or f32(raw[r, c]) == top else f32(raw[r, c])
            over[c] += f32(1) if value >= limit else f32(0)
            value = f32(0) if value >= limit else value
            line[c] += value
            most[c] = max(most[c], value)
    if filled >= 0:
        _fold(line, places.sources, places.targets, out[filled])
    return over.sum(), most.max()


@_JIT
def _fold(line, sources, targets, row):  # type: ignore[no-untyped-def]
    for k in range(sources.size):
        row[targets[k]] += line[sources[k]]


class Binner:
    """Adds up frames of one detector; keeps its room, so that each thread needs its own.

    Parameters
    ----------
    bad:
        (H, W) True = counts nothing.
    """

    def __init__(self, bad: npt.NDArray[np.bool_]) -> None:
        self._bad, self._work = np.ascontiguousarray(bad), np.empty((3, bad.shape[1]), np.float32)

    def __call__(
        self, raw: npt.NDArray[Any], places: Places, top: float = -1.0, limit: float = float("inf")
    ) -> tuple[npt.NDArray[np.float32], int, float]:
        """Return the frame (N, N) float32 that `raw` becomes, how many pixels are saturated, the highest other.

        Parameters
        ----------
        raw:
            (H, W) of any real dtype, finite.
        places:
            Where its pixels go.
        top:
            A value that marks pixels which count nothing; -1 for none.
        limit:
            Saturation value: pixels at it or above count nothing.
        """
        out = np.empty((places.size, places.size), np.float32)
        saturated, high = _pass(raw, self._bad, f32(top), f32(limit), places, self._work, out)
        return np.ascontiguousarray(out.T) if places.transposed else out, int(saturated), float(high)
