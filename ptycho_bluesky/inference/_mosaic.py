"""The growing image: patches added at sub-pixel positions, weighted, their free phases matched where they overlap."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._level import Plane, find_plane
from ptycho_bluesky.inference._mosaic_kernels import LAYERS, add_patch, shift_patch

__all__ = ["Agreement", "Maps", "Mosaic", "warm_up"]

FloatImage = npt.NDArray[np.float32]
Maps = tuple[FloatImage, FloatImage, FloatImage, FloatImage]
"""phase, amplitude, coverage, residual: each (Y, X) float32."""

Box = tuple[int, int, int, int]
"""Rows and columns (first, end, first, end) of the grid."""

MAX_PIXELS = 1 << 24
"""Largest canvas: 24 bytes a pixel, 400 MB."""

MIN_OVERLAP = 0.02
MIN_COVERAGE = 0.05
LEAST_TRUST = 0.1
"""Share of its weight that a patch of no confidence keeps: it shows where nothing better is, and is outvoted there."""

MOST_BOXES = 4096


class Agreement(NamedTuple):
    """How a patch agrees with what lay below it; (0, 0) where too little did."""

    difference: float
    """Of the two, 0 = none, 1 = nothing in common (1 minus a coherence)."""

    contrast: float
    """Of each by itself, in the same measure; where positions, axes or the probe are wrong, they differ by more."""


def _in_process(shape: tuple[int, int, int]) -> FloatImage:
    return np.zeros(shape, np.float32)


class Mosaic:
    """Weighted mean of complex patches on a grid that grows where the scan goes.

    Each patch comes with an unknown constant phase (one frame does not fix it). It is turned by the angle of its inner
    product with the mosaic so far, ``arg sum conj(M) P``, the least-squares choice; a patch that overlaps nothing is
    turned so that its own weighted mean is 0, and begins an island; islands are joined by the first patch that overlaps
    two of them enough. Phasors are interpolated by cubic convolution, weights move along.

    Parameters
    ----------
    allocate:
        Returns a zero array (LAYERS, Y, X) float32 for a canvas; by default in this process's memory.
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
        self._boxes: list[Box] | None = None
        self.refusal = ""
        """Why :meth:`reserve` refused a place last, in words."""
        self.canvas = np.zeros((LAYERS, 0, 0), np.float32)
        """(LAYERS, Y, X): real part, imaginary part, weight, residual times weight, number of the island, confidence
        times weight."""
        self.start = (0, 0)
        """Grid index (row, column) of the canvas's first pixel."""
        self.field: Box = (0, 0, 0, 0)
        """The part of the grid that belongs to the image: first row, end of rows, first column, end of columns."""

    def adopt(self, canvas: FloatImage, start: tuple[int, int], field: Box) -> None:
        """Go on with a predecessor's `canvas` (LAYERS, Y, X), its `start`, and the `field` that is the image."""
        self.canvas, self.start, self.field, self._boxes = canvas, start, field, None
        self._islands = int(canvas[4].max(initial=0))

    def reserve(self, first: tuple[float, float], shape: tuple[int, int]) -> bool:
        """Make room for `shape` pixels at grid index `first` (fractions allowed); False where there is none."""
        if not all(abs(v) < 2**40 for v in first):
            self.refusal = f"the place {first} is no pixel"
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
            size = wanted[1] - wanted[0], wanted[3] - wanted[2]
            if size[0] * size[1] > self.max_pixels:
                self.refusal = (
                    f"the image would have {size[0]} x {size[1]} pixels with a patch at pixel ({i}, {j}), allowed are "
                    f"{self.max_pixels / 1e6:.1f} million (its memory); the patches beyond are left out: check the "
                    "positions, or scan the field in parts"
                )
                return False
            try:
                self._grow(wanted, have)
            except (InferenceError, MemoryError) as error:
                self.refusal = f"the image cannot grow to {size[0]} x {size[1]} pixels: {error}"
                return False
        if wanted != self.field:
            self.field, self._boxes = wanted, None
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
        confidence: float = 1.0,
    ) -> Agreement:
        """Add one patch.

        Parameters
        ----------
        phase, amplitude, weight:
            (h, w) radians, transmission (None = 1) and trust, this at most 1: best the light on each pixel.
        first:
            Grid index (row, column) of the patch's first pixel, with its fraction.
        residual:
            Misfit of this patch, for the map of it.
        confidence:
            In the whole patch, 0 to 1; a patch of less counts less.

        Raises
        ------
        InferenceError
            When the place is out of reach; :meth:`reserve` tells beforehand.
        """
        if not self.reserve(first, phase.shape):
            raise InferenceError(f"a patch at pixel {first} is out of reach: {self.refusal}")
        i, j = math.floor(first[0]), math.floor(first[1])
        h, w = phase.shape
        patch, moved = np.zeros((3, h + 4, w + 4), np.float32), np.empty((3, h + 1, w + 1), np.float32)
        inner = patch[:, 2:-2, 2:-2]  # phasors are interpolated, not phases: a phase that wraps stays whole
        np.multiply(weight, np.float32(max(confidence, LEAST_TRUST)), out=inner[2])
        modulus = inner[2] if amplitude is None else inner[2] * amplitude
        np.multiply(modulus, np.cos(phase), out=inner[0])
        np.multiply(modulus, np.sin(phase), out=inner[1])
        shift_patch(patch, np.float32(first[0] - i), np.float32(first[1] - j), moved)
        place = i - self.start[0], j - self.start[1]
        fresh, joined, difference, contrast = add_patch(
            self.canvas, moved, *place, residual, confidence, MIN_OVERLAP, float(self._islands + 1)
        )
        self._islands += fresh
        self._changed(None if joined else (i, i + h + 1, j, j + w + 1))
        return Agreement(max(difference, 0.0), max(contrast, 0.0))

    def _changed(self, box: Box | None) -> None:
        if box is None or self._boxes is None or len(self._boxes) >= MOST_BOXES:
            self._boxes = None
        else:
            self._boxes.append(box)

    def take_changes(self) -> list[Box] | None:
        """Return what has changed since the last call; None where that may be everything."""
        boxes, self._boxes = self._boxes, []
        return boxes

    # what is seen -----------------------------------------------------------------------------------------------------

    def shape(self, binning: int = 1) -> tuple[int, int]:
        """Return (rows, columns) of the image; rows and columns that do not fill a bin are left out."""
        r0, r1, c0, c1 = self.field
        return (r1 - r0) // binning, (c1 - c0) // binning

    def _part(self, binning: int, rows: slice, columns: slice) -> FloatImage:
        """Return (LAYERS, h, w) of the image's pixels [rows, columns], binned by sums over binning**2."""
        r, c = self.field[0] - self.start[0], self.field[2] - self.start[1]
        b = binning
        part = self.canvas[:, r + rows.start * b : r + rows.stop * b, c + columns.start * b : c + columns.stop * b]
        if b > 1:
            h, w = part.shape[1] // b, part.shape[2] // b
            part = part.reshape(LAYERS, h, b, w, b).sum(axis=(2, 4)) / np.float32(b**2)
        return part

    def plane(self, binning: int = 1) -> Plane:
        """Return the linear ramp of the image's phase, in its binned pixels.

        Ptychography leaves it as free as the constant, and a beam that does not meet the detector's centre tilts the
        image until it wraps.
        """
        rows, columns = self.shape(binning)
        part = self._part(binning, slice(0, rows), slice(0, columns))
        seen = part[2] >= MIN_COVERAGE
        return find_plane(np.where(seen, part[0] + np.complex64(1j) * part[1], np.complex64(0)))

    def shown(
        self, binning: int = 1, plane: Plane | None = None, rows: slice | None = None, columns: slice | None = None
    ) -> FloatImage:
        """Return (5, h, w): phase, amplitude, coverage, residual, confidence; NaN where nothing has been measured.

        Parameters
        ----------
        binning:
            Sum `binning` x `binning` pixels into one.
        plane:
            Ramp to take out of the phase; None: the phase as it is.
        rows, columns:
            The part wanted, in binned pixels; None for all.
        """
        shape = self.shape(binning)
        rows, columns = rows or slice(0, shape[0]), columns or slice(0, shape[1])
        real, imaginary, weight, misfit, _, confidence = self._part(binning, rows, columns)
        maps = np.full((5, *weight.shape), np.nan, np.float32)
        seen = weight >= MIN_COVERAGE
        if plane is None:
            np.arctan2(imaginary, real, out=maps[0], where=seen)
        else:
            level = plane.taken_from(real + np.complex64(1j) * imaginary, rows.start, columns.start)
            np.copyto(maps[0], level, where=seen)
        np.divide(np.hypot(real, imaginary), weight, out=maps[1], where=seen)
        maps[2] = weight
        np.divide(misfit, weight, out=maps[3], where=seen)
        np.divide(confidence, weight, out=maps[4], where=seen)
        return maps

    def maps(self, binning: int = 1, level: bool = False) -> Maps:
        """Return phase, amplitude, coverage and residual of the image, each (Y, X), NaN where nothing was measured.

        `binning` x `binning` pixels become one; `level`: without the phase's linear ramp.
        """
        phase, amplitude, coverage, residual, _ = self.shown(binning, self.plane(binning) if level else None)
        return phase, amplitude, coverage, residual


def _sign(side: int) -> int:
    return 1 if side % 2 else -1


def _beyond(side: int, wanted: int, have: int) -> bool:
    return wanted > have if side % 2 else wanted < have


def warm_up() -> None:
    """Compile the kernels (a second the first time, then from the cache), so that the first frame does not wait."""
    mosaic, patch = Mosaic(), np.ones((8, 8), np.float32)
    mosaic.add(patch, patch, patch, (0.5, 0.5))
