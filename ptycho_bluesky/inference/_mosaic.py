"""The growing image: patches added at sub-pixel positions, weighted, their free phases matched where they overlap."""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import InferenceError

__all__ = ["Maps", "Mosaic", "warm_up"]

FloatImage = npt.NDArray[np.float32]
Maps = tuple[FloatImage, FloatImage, FloatImage, FloatImage]
"""phase, amplitude, coverage, residual: each (Y, X) float32."""

MAX_PIXELS = 1 << 24
MIN_OVERLAP = 0.1
MIN_COVERAGE = 0.05


@numba.njit(cache=True)
def _shift(phase, amplitude, weight, fy, fx, out):  # type: ignore[no-untyped-def]
    """Fill `out` (3, h+1, w+1) with real part, imaginary part and weight of a patch, moved down and right by (fy, fx).

    Phasors are interpolated, not phases: a phase that wraps stays whole.
    """
    h, w = phase.shape
    a, b, c, d = (1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx
    out[:] = 0
    for i in range(h):
        for j in range(w):
            v = weight[i, j]
            if v <= 0:
                continue
            m = v * amplitude[i, j]
            re, im = m * math.cos(phase[i, j]), m * math.sin(phase[i, j])
            for k, value in ((0, re), (1, im), (2, v)):
                out[k, i, j] += a * value
                out[k, i, j + 1] += b * value
                out[k, i + 1, j] += c * value
                out[k, i + 1, j + 1] += d * value


@numba.njit(cache=True)
def _add(canvas, moved, i0, j0, residual, min_overlap):  # type: ignore[no-untyped-def]
    """Add a moved patch to `canvas` (4, Y, X) at (i0, j0), turned to agree with what lies there already."""
    _, h, w = moved.shape
    re = im = own_re = own_im = shared = whole = 0.0
    for i in range(h):
        for j in range(w):
            p, q, v = moved[0, i, j], moved[1, i, j], moved[2, i, j]
            own_re += p
            own_im += q
            whole += v
            if canvas[2, i0 + i, j0 + j] > 0:
                s, t = canvas[0, i0 + i, j0 + j], canvas[1, i0 + i, j0 + j]
                re += s * p + t * q
                im += s * q - t * p
                shared += min(v, canvas[2, i0 + i, j0 + j])
    if shared < min_overlap * whole or (re == 0.0 and im == 0.0):
        re, im = own_re, own_im  # alone: its own mean becomes phase 0
    size = math.hypot(re, im)
    cosine, sine = (re / size, im / size) if size > 0 else (1.0, 0.0)
    for i in range(h):
        for j in range(w):
            p, q, v = moved[0, i, j], moved[1, i, j], moved[2, i, j]
            canvas[0, i0 + i, j0 + j] += cosine * p + sine * q
            canvas[1, i0 + i, j0 + j] += cosine * q - sine * p
            canvas[2, i0 + i, j0 + j] += v
            canvas[3, i0 + i, j0 + j] += residual * v


def _in_process(shape: tuple[int, int, int]) -> FloatImage:
    return np.zeros(shape, np.float32)


class Mosaic:
    """Weighted mean of complex patches on a grid that grows where the scan goes.

    Each patch comes with an unknown constant phase (one frame does not fix it). It is turned by the angle of its inner
    product with the mosaic so far, ``arg sum conj(M) P``, the least-squares choice; a patch that overlaps nothing is
    turned so that its own weighted mean is 0. Interpolation is bilinear on phasors, weights move along.

    Parameters
    ----------
    allocate:
        Returns a zero array (4, Y, X) float32 for a canvas; by default in this process's memory.
    max_pixels:
        Largest canvas; positions that need a larger one are refused by :meth:`reserve`.
    """

    def __init__(
        self,
        allocate: Callable[[tuple[int, int, int]], FloatImage] = _in_process,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._allocate, self.max_pixels = allocate, max_pixels
        self.canvas = np.zeros((4, 0, 0), np.float32)
        """(4, Y, X): real part, imaginary part, weight, residual times weight."""
        self.start = (0, 0)
        """Grid index (row, column) of the canvas's first pixel."""
        self.field = (0, 0, 0, 0)
        """Rows and columns (first, end, first, end) of the grid that belong to the image."""

    def adopt(self, canvas: FloatImage, start: tuple[int, int], field: tuple[int, int, int, int]) -> None:
        """Go on with the canvas of a predecessor."""
        self.canvas, self.start, self.field = canvas, start, field

    def reserve(self, first: tuple[float, float], shape: tuple[int, int]) -> bool:
        """Make room for `shape` pixels at grid index `first` (fractions allowed); False where that is out of reach."""
        if not all(abs(v) < 2**40 for v in first):
            return False
        i, j = (math.floor(v) for v in first)
        wanted = (i, i + shape[0] + 1, j, j + shape[1] + 1)
        if self.field[1] > self.field[0]:
            wanted = tuple(  # type: ignore[assignment]
                (min, max)[k % 2](a, b) for k, (a, b) in enumerate(zip(wanted, self.field, strict=True))
            )
        (r, c), (_, rows, columns) = self.start, self.canvas.shape
        have = (r, r + rows, c, c + columns)
        if wanted[0] < have[0] or wanted[1] > have[1] or wanted[2] < have[2] or wanted[3] > have[3]:
            if (wanted[1] - wanted[0]) * (wanted[3] - wanted[2]) > self.max_pixels:
                return False
            self._grow(wanted, have)
        self.field = wanted
        return True

    def _grow(self, wanted: tuple[int, ...], have: tuple[int, ...]) -> None:
        """Move to a larger canvas, with room to spare on the sides where the old one was too small."""
        empty = self.canvas.size == 0
        bounds = list(wanted)
        if not empty:
            spare = max(32, (have[1] - have[0]) // 3, (have[3] - have[2]) // 3)
            bounds = [have[k] if not _beyond(k, wanted[k], have[k]) else wanted[k] + _sign(k) * spare for k in range(4)]
            if (bounds[1] - bounds[0]) * (bounds[3] - bounds[2]) > self.max_pixels:
                bounds = list(wanted)
        grown = self._allocate((4, bounds[1] - bounds[0], bounds[3] - bounds[2]))
        if not empty:
            r0, r1, c0, c1 = self.field
            old = self.canvas[:, r0 - have[0] : r1 - have[0], c0 - have[2] : c1 - have[2]]
            grown[:, r0 - bounds[0] : r1 - bounds[0], c0 - bounds[2] : c1 - bounds[2]] = old
        self.canvas, self.start = grown, (bounds[0], bounds[2])

    def add(
        self,
        phase: FloatImage,
        amplitude: FloatImage | None,
        weight: FloatImage,
        first: tuple[float, float],
        residual: float = 0.0,
    ) -> None:
        """Add one patch.

        Parameters
        ----------
        phase, amplitude, weight:
            (h, w) radians, transmission (None = 1) and trust, this at most 1.
        first:
            Grid index (row, column) of the patch's first pixel, with its fraction.
        residual:
            Misfit of this patch, for the map of it.

        Raises
        ------
        InferenceError
            When the place is out of reach; :meth:`reserve` tells beforehand.
        """
        if not self.reserve(first, phase.shape):
            raise InferenceError(f"a patch at pixel {first} is out of reach of a mosaic of {self.max_pixels} pixels")
        i, j = math.floor(first[0]), math.floor(first[1])
        moved = np.empty((3, phase.shape[0] + 1, phase.shape[1] + 1), np.float32)
        modulus = np.broadcast_to(np.float32(1), phase.shape) if amplitude is None else amplitude
        modulus, phase, weight = (np.ascontiguousarray(v, np.float32) for v in (modulus, phase, weight))
        _shift(phase, modulus, weight, np.float32(first[0] - i), np.float32(first[1] - j), moved)
        _add(self.canvas, moved, i - self.start[0], j - self.start[1], residual, MIN_OVERLAP)

    def maps(self, binning: int = 1) -> Maps:
        """Return phase, amplitude, coverage and residual of the field, NaN where nothing has been measured.

        Parameters
        ----------
        binning:
            Sum `binning` x `binning` pixels into one (rows and columns that do not fill one are left out).
        """
        r0, r1, c0, c1 = self.field
        part = self.canvas[:, r0 - self.start[0] : r1 - self.start[0], c0 - self.start[1] : c1 - self.start[1]]
        if binning > 1:
            rows, columns = part.shape[1] // binning, part.shape[2] // binning
            part = part[:, : rows * binning, : columns * binning]
            part = part.reshape(4, rows, binning, columns, binning).sum(axis=(2, 4)) / np.float32(binning**2)
        real, imaginary, weight, misfit = part
        seen = weight >= MIN_COVERAGE
        phase, amplitude, residual = (np.full(weight.shape, np.nan, np.float32) for _ in range(3))
        np.arctan2(imaginary, real, out=phase, where=seen)
        np.divide(np.hypot(real, imaginary), weight, out=amplitude, where=seen)
        np.divide(misfit, weight, out=residual, where=seen)
        return phase, amplitude, np.array(weight), residual


def _sign(side: int) -> int:
    return 1 if side % 2 else -1


def _beyond(side: int, wanted: int, have: int) -> bool:
    return wanted > have if side % 2 else wanted < have


def warm_up() -> None:
    """Compile the kernels (a second the first time, then from the cache), so that the first frame does not wait."""
    mosaic, patch = Mosaic(), np.ones((8, 8), np.float32)
    mosaic.add(patch, patch, patch, (0.5, 0.5))
