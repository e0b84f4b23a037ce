"""The growing image: patches added at sub-pixel positions, weighted, their free phases matched where they overlap."""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import InferenceError

__all__ = ["Maps", "Mosaic", "warm_up"]

FloatImage = npt.NDArray[np.float32]
Maps = tuple[FloatImage, FloatImage, FloatImage, FloatImage]
"""phase, amplitude, coverage, residual: each (Y, X) float32."""

MAX_PIXELS = 1 << 24
MIN_OVERLAP = 0.02
ISLANDS = 16
COARSE = 256
LAYERS = 5
FAST = {"reassoc", "contract", "nsz", "arcp"}  # lets sums vectorise; NaN keeps its meaning
MIN_COVERAGE = 0.05


@numba.njit(cache=True, fastmath=FAST)
def _shift(patch, fy, fx, out):  # type: ignore[no-untyped-def]
    """Fill `out` (3, h+1, w+1) with `patch` (3, h+2, w+2), bordered by zeros, moved down and right by (fy, fx)."""
    a, b, c, d = (1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx
    for k in range(3):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                here = a * patch[k, i + 1, j + 1] + b * patch[k, i + 1, j]
                out[k, i, j] = here + c * patch[k, i, j + 1] + d * patch[k, i, j]


@numba.njit(cache=True, fastmath=FAST)
def _add(canvas, moved, i0, j0, residual, min_overlap, fresh):  # type: ignore[no-untyped-def]
    """Add a moved patch to `canvas` (5, Y, X) at (i0, j0), turned to agree with what lies there already.

    The last layer numbers islands: areas whose phases have been matched. A patch that overlaps several joins them to
    the oldest. Returns whether the patch began a new island, `fresh`.
    """
    _, h, w = moved.shape
    names, sums = np.zeros(ISLANDS), np.zeros((ISLANDS, 3))  # of each island: Re, Im of sum conj(M) P; shared weight
    own_re = own_im = whole = re = im = shared = np.float32(0)
    low, high = np.float32(np.inf), np.float32(0)
    for i in range(h):
        for j in range(w):
            p, q, v = moved[0, i, j], moved[1, i, j], moved[2, i, j]
            s, t, name = canvas[0, i0 + i, j0 + j], canvas[1, i0 + i, j0 + j], canvas[4, i0 + i, j0 + j]
            own_re += p
            own_im += q
            whole += v
            re += s * p + t * q
            im += s * q - t * p
            shared += min(v, canvas[2, i0 + i, j0 + j])
            high = max(high, name)
            low = min(low, name if name > 0 else np.float32(np.inf))
    names[0], sums[0, 0], sums[0, 1], sums[0, 2] = high, re, im, shared
    if high > low:
        _by_island(canvas, moved, i0, j0, names, sums)
    home = -1
    for k in range(ISLANDS):
        if sums[k, 2] >= min_overlap * whole and sums[k, 2] > 0 and (home < 0 or names[k] < names[home]):
            home = k
    label, angle = fresh, math.atan2(own_im, own_re)  # alone: its own mean becomes phase 0
    if home >= 0:
        label, angle = names[home], math.atan2(sums[home, 1], sums[home, 0])
        for k in range(ISLANDS):
            if k != home and names[k] > 0 and sums[k, 2] >= min_overlap * whole:
                turn = math.atan2(sums[k, 1], sums[k, 0]) - angle
                _turn(canvas, names[k], label, math.cos(turn), math.sin(turn))
    cosine, sine = math.cos(angle), math.sin(angle)
    for i in range(h):
        for j in range(w):
            p, q, v = moved[0, i, j], moved[1, i, j], moved[2, i, j]
            canvas[0, i0 + i, j0 + j] += cosine * p + sine * q
            canvas[1, i0 + i, j0 + j] += cosine * q - sine * p
            canvas[2, i0 + i, j0 + j] += v
            canvas[3, i0 + i, j0 + j] += residual * v
            name = canvas[4, i0 + i, j0 + j]
            canvas[4, i0 + i, j0 + j] = label if name == 0 and v > 0 else name
    return home < 0


@numba.njit(cache=True, fastmath=FAST)
def _by_island(canvas, moved, i0, j0, names, sums):  # type: ignore[no-untyped-def]
    """Sum as :func:`_add` does, but for each island under the patch by itself."""
    names[:], sums[:] = 0, 0
    k, known = 0, np.float32(0)
    for i in range(moved.shape[1]):
        for j in range(moved.shape[2]):
            p, q, v = moved[0, i, j], moved[1, i, j], moved[2, i, j]
            name = canvas[4, i0 + i, j0 + j]
            if name > 0 and v > 0:
                if name != known:
                    k, known = 0, name
                    while k < ISLANDS - 1 and names[k] > 0 and names[k] != name:
                        k += 1
                    names[k] = name
                s, t = canvas[0, i0 + i, j0 + j], canvas[1, i0 + i, j0 + j]
                sums[k, 0] += s * p + t * q
                sums[k, 1] += s * q - t * p
                sums[k, 2] += min(v, canvas[2, i0 + i, j0 + j])


@numba.njit(cache=True, fastmath=FAST)
def _turn(canvas, name, label, cosine, sine):  # type: ignore[no-untyped-def]
    """Turn the island `name` by an angle and give it the number `label`."""
    for i in range(canvas.shape[1]):
        for j in range(canvas.shape[2]):
            if canvas[4, i, j] == name:
                s, t = canvas[0, i, j], canvas[1, i, j]
                canvas[0, i, j] = cosine * s - sine * t
                canvas[1, i, j] = sine * s + cosine * t
                canvas[4, i, j] = label


def _in_process(shape: tuple[int, int, int]) -> FloatImage:
    return np.zeros(shape, np.float32)


class Mosaic:
    """Weighted mean of complex patches on a grid that grows where the scan goes.

    Each patch comes with an unknown constant phase (one frame does not fix it). It is turned by the angle of its inner
    product with the mosaic so far, ``arg sum conj(M) P``, the least-squares choice; a patch that overlaps nothing is
    turned so that its own weighted mean is 0, and begins an island; islands are joined by the first patch that overlaps
    two of them enough. Interpolation is bilinear on phasors, weights move along.

    Parameters
    ----------
    allocate:
        Returns a zero array (5, Y, X) float32 for a canvas; by default in this process's memory.
    max_pixels:
        Largest canvas; positions that need a larger one are refused by :meth:`reserve`.
    """

    def __init__(
        self,
        allocate: Callable[[tuple[int, int, int]], FloatImage] = _in_process,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._allocate, self.max_pixels = allocate, max_pixels
        self._islands = 0
        self.canvas = np.zeros((LAYERS, 0, 0), np.float32)
        """(5, Y, X): real part, imaginary part, weight, residual times weight, number of the island."""
        self.start = (0, 0)
        """Grid index (row, column) of the canvas's first pixel."""
        self.field = (0, 0, 0, 0)
        """Rows and columns (first, end, first, end) of the grid that belong to the image."""

    def adopt(self, canvas: FloatImage, start: tuple[int, int], field: tuple[int, int, int, int]) -> None:
        """Go on with the canvas of a predecessor."""
        self.canvas, self.start, self.field = canvas, start, field
        self._islands = int(canvas[4].max(initial=0))

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
        grown = self._allocate((LAYERS, bounds[1] - bounds[0], bounds[3] - bounds[2]))
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
        h, w = phase.shape
        patch, moved = np.zeros((3, h + 2, w + 2), np.float32), np.empty((3, h + 1, w + 1), np.float32)
        inner = patch[:, 1:-1, 1:-1]  # phasors are interpolated, not phases: a phase that wraps stays whole
        modulus = weight if amplitude is None else weight * amplitude
        np.multiply(modulus, np.cos(phase), out=inner[0])
        np.multiply(modulus, np.sin(phase), out=inner[1])
        inner[2] = weight
        _shift(patch, np.float32(first[0] - i), np.float32(first[1] - j), moved)
        place = i - self.start[0], j - self.start[1]
        self._islands += _add(self.canvas, moved, *place, residual, MIN_OVERLAP, float(self._islands + 1))

    def maps(self, binning: int = 1, level: bool = False) -> Maps:
        """Return phase, amplitude, coverage and residual of the field, NaN where nothing has been measured.

        Parameters
        ----------
        binning:
            Sum `binning` x `binning` pixels into one (rows and columns that do not fill one are left out).
        level:
            Take the linear ramp out of the phase. Ptychography leaves it as free as the constant, and a beam that does
            not meet the detector's centre tilts the image until it wraps.
        """
        r0, r1, c0, c1 = self.field
        part = self.canvas[:4, r0 - self.start[0] : r1 - self.start[0], c0 - self.start[1] : c1 - self.start[1]]
        if binning > 1:
            rows, columns = part.shape[1] // binning, part.shape[2] // binning
            part = part[:, : rows * binning, : columns * binning]
            part = part.reshape(4, rows, binning, columns, binning).sum(axis=(2, 4)) / np.float32(binning**2)
        real, imaginary, weight, misfit = part
        seen = weight >= MIN_COVERAGE
        phase, amplitude, residual = (np.full(weight.shape, np.nan, np.float32) for _ in range(3))
        np.arctan2(imaginary, real, out=phase, where=seen)
        if level and seen.any():
            phase[seen] = _levelled(np.where(seen, real + np.complex64(1j) * imaginary, np.complex64(0)))[seen]
        np.divide(np.hypot(real, imaginary), weight, out=amplitude, where=seen)
        np.divide(misfit, weight, out=residual, where=seen)
        return phase, amplitude, np.array(weight), residual


def _levelled(phasor: npt.NDArray[np.complex64]) -> FloatImage:
    """Return the phase of `phasor` (Y, X) without its linear ramp: the strongest plane wave, then a fit of the rest.

    Both are found on a coarse image of at most 256 pixels a side, so that a large live image does not take long.
    """
    step = max(1, -(-max(phasor.shape) // COARSE))
    r, c = (n // step for n in phasor.shape)
    coarse = phasor[: r * step, : c * step].reshape(r, step, c, step).sum(axis=(1, 3))
    shape = [scipy.fft.next_fast_len(2 * n) for n in coarse.shape]
    strength = np.abs(scipy.fft.fft2(coarse, s=shape))
    peak = np.unravel_index(int(strength.argmax()), strength.shape)
    slopes = [2 * np.pi * float(np.fft.fftfreq(n)[int(k)]) / step for n, k in zip(shape, peak, strict=True)]
    y, x = (np.arange(n) * step + (step - 1) / 2 for n in coarse.shape)
    level = coarse * np.exp(-1j * slopes[0] * y)[:, None] * np.exp(-1j * slopes[1] * x)
    middle = np.angle(level.sum())
    rows, columns = np.nonzero(coarse)
    design = np.stack([np.ones(len(rows)), y[rows], x[columns]], axis=1)
    rest = np.angle(level[rows, columns] * np.exp(-1j * middle))
    plane = np.linalg.lstsq(design, rest.astype(np.float64), rcond=None)[0]
    down, across = (np.arange(n) * (slope + p) for n, slope, p in zip(phasor.shape, slopes, plane[1:], strict=True))
    turn = np.exp(-1j * (down + middle + plane[0])).astype(np.complex64)
    return np.asarray(np.angle(phasor * turn[:, None] * np.exp(-1j * across).astype(np.complex64)), dtype=np.float32)


def _sign(side: int) -> int:
    return 1 if side % 2 else -1


def _beyond(side: int, wanted: int, have: int) -> bool:
    return wanted > have if side % 2 else wanted < have


def warm_up() -> None:
    """Compile the kernels (a second the first time, then from the cache), so that the first frame does not wait."""
    mosaic, patch = Mosaic(), np.ones((8, 8), np.float32)
    mosaic.add(patch, patch, patch, (0.5, 0.5))
