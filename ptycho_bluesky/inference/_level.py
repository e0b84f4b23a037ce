"""The ramp of an image's phase, which ptychography leaves free: found on a coarse copy, taken out of any part of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

__all__ = ["Plane", "find_plane"]

COARSE = 256

FloatImage = npt.NDArray[np.float32]


class Plane(NamedTuple):
    """A phase that grows evenly: ``phase + rows * down + columns * across``, radians, pixels of its image."""

    phase: float
    down: float
    across: float

    def taken_from(self, phasor: npt.NDArray[np.complexfloating], row: int = 0, column: int = 0) -> FloatImage:
        """Return the phase of `phasor` (h, w), which begins at pixel (row, column), without this plane."""
        down, across = (
            (first + np.arange(n)) * slope
            for n, slope, first in zip(phasor.shape, (self.down, self.across), (row, column), strict=True)
        )
        turn = np.exp(-1j * (down + self.phase)).astype(np.complex64)
        return np.asarray(np.angle(phasor * turn[:, None] * np.exp(-1j * across).astype(np.complex64)), np.float32)

    def away_from(self, other: Plane, shape: tuple[int, ...]) -> float:
        """Return the largest difference of two planes over an image of `shape`, radians."""
        slopes = abs(self.down - other.down) * shape[0] + abs(self.across - other.across) * shape[1]
        return abs(float(np.angle(np.exp(1j * (self.phase - other.phase))))) + slopes


def find_plane(phasor: npt.NDArray[np.complex64]) -> Plane:
    """Return the linear ramp of `phasor` (Y, X), 0 where nothing is known: the strongest plane wave, then a fit.

    Both are found on a coarse image of at most 256 pixels a side, so that a large live image does not take long.
    """
    step = max(1, -(-max(phasor.shape) // COARSE))
    r, c = (n // step for n in phasor.shape)
    coarse = phasor[: r * step, : c * step].reshape(r, step, c, step).sum(axis=(1, 3))
    rows, columns = np.nonzero(coarse)
    if not len(rows):
        return Plane(0.0, 0.0, 0.0)
    shape = [scipy.fft.next_fast_len(2 * n) for n in coarse.shape]
    strength = np.abs(scipy.fft.fft2(coarse, s=shape))
    peak = np.unravel_index(int(strength.argmax()), strength.shape)
    slopes = [2 * np.pi * float(np.fft.fftfreq(n)[int(k)]) / step for n, k in zip(shape, peak, strict=True)]
    y, x = (np.arange(n) * step + (step - 1) / 2 for n in coarse.shape)
    level = coarse * np.exp(-1j * slopes[0] * y)[:, None] * np.exp(-1j * slopes[1] * x)
    middle = float(np.angle(level.sum()))
    design = np.stack([np.ones(len(rows)), y[rows], x[columns]], axis=1)
    rest = np.angle(level[rows, columns] * np.exp(-1j * middle))
    plane = np.linalg.lstsq(design, rest.astype(np.float64), rcond=None)[0]
    return Plane(middle + float(plane[0]), slopes[0] + float(plane[1]), slopes[1] + float(plane[2]))
