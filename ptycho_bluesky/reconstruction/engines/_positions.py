"""Position correction: where each frame wants to be, and what that says of all of them together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage
import scipy.signal
import scipy.sparse
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree

from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._problem import Problem

__all__ = ["SETTLING", "AffineMap", "Pace", "PositionCorrection", "diameter_px"]

Points = npt.NDArray[np.float64]

SETTLING = 2
"""First epochs of an empty object, whose shifts tell nothing yet."""

NEIGHBOURS = 64
"""Most frames that a frame is compared with."""

LONGEST_STEP = 1 / 14
"""Of a corner in one epoch, in diameters of the probe."""

WORTH_A_WARP_PX = 0.25
"""Smaller movements of the object are left to the frames: an interpolation would blur it."""

TOO_DARK = 1e-3
"""Of the brightest place, where the object stays where it is."""


@dataclass(frozen=True)
class Pace:
    """How fast corners move; pairs are of the first and the last epoch, geometrically in between."""

    prior: tuple[float, float] = (3e-3, 3e-4)
    """Weight of the affine prior against a frame's own word."""

    gain: tuple[float, float] = (1.0, 0.2)
    """Share of the move that is made: a small one averages the noise of many epochs."""

    damping: float = 0.3
    """Against movements that many frames share, which noise alone causes too."""


@dataclass(frozen=True)
class AffineMap:
    """The affine map that brings given positions closest to the refined ones, and what it leaves."""

    matrix: Points
    """(2, 2): ``refined - their mean = (given - their mean) @ matrix.T + rest``."""

    rest: Points
    """(N, 2) pixels."""

    @classmethod
    def between(cls, given: Points, refined: Points) -> AffineMap:
        """Fit by least squares; where `given` lie on a line, the map of least change."""
        before, after = given - given.mean(axis=0), refined - refined.mean(axis=0)
        change = np.linalg.lstsq(before, after - before, rcond=1e-6)[0]
        return cls(np.eye(2) + change.T, after - before - before @ change)

    @property
    def rms_px(self) -> float:
        """Length of the rest, root of the mean square over frames, pixels."""
        return float(np.sqrt((self.rest**2).sum(axis=1).mean()))

    def __str__(self) -> str:
        """Rows' and columns' scale, rotation (from rows towards columns), shear and rest, for people."""
        rotation = float(np.arctan2(self.matrix[1, 0], self.matrix[0, 0]))
        back = np.array([[np.cos(rotation), np.sin(rotation)], [-np.sin(rotation), np.cos(rotation)]])
        (rows, sheared), (_, columns) = back @ self.matrix
        return (
            f"scale {rows:.4f} x {columns:.4f}, rotation {np.degrees(rotation):.3f} deg, "
            f"shear {np.degrees(np.arctan(sheared / columns)):.3f} deg, rest {self.rms_px:.2f} px rms"
        )


def diameter_px(probe: ComplexArray) -> float:
    """Return the diameter of the disc as large as the brightest pixels that hold 90 % of a probe (..., H, W)."""
    intensity = np.sort((np.abs(probe) ** 2).reshape(-1, *probe.shape[-2:]).sum(axis=0), axis=None)[::-1]
    held = np.cumsum(intensity, dtype=np.float64)
    return float(2 * np.sqrt((1 + np.searchsorted(held, 0.9 * held[-1])) / np.pi))


class PositionCorrection:
    """Turns the shifts that frames ask for into new corners, epoch by epoch.

    A frame's shift (Odstrcil, Menzel and Guizar-Sicairos, Optics Express 26, 3108 (2018), eq. 28) is measured against
    an object that its neighbours made, errors of their own included: it tells the difference to their mean, and a
    drift or a wrong scale, which neighbours share, hardly shows in it. With `W` the mean over neighbours, weighted
    with the overlap of their probes, and `s` the shifts, the corners' errors `u` follow from

        ``(1 - W) u = s - prior (u + rest) - damping u``,

    solved by conjugate gradients. The affine prior draws what the best affine map of the given positions leaves
    (`rest`) towards zero, with a weight that falls from epoch to epoch. The object goes along with
    the mean movement of the frames that see it, or it would pull them back. The scan as a whole does not move.

    Parameters
    ----------
    problem:
        What is reconstructed; its grid holds the positions as given.
    pace:
        How fast.
    limits:
        Lowest and highest corner that a frame may move to; None for those within the problem's grid. A part of an
        object, with frames beyond it, has those of the whole.
    """

    def __init__(self, problem: Problem, pace: Pace = Pace(), limits: tuple[Points, Points] | None = None) -> None:
        self.given = np.asarray(problem.grid.corners[problem.used], np.float64)
        self._pace = pace
        self._within = np.array(problem.grid.shape) - problem.amplitudes.size
        self._first: Points = np.zeros(2) if limits is None else limits[0]
        self._last: Points = np.asarray(self._within, np.float64) if limits is None else limits[1]

    def apply(self, model: Model, shifts: Points, epoch: int, epochs: int) -> Model:
        """Return the model with corners, and where these move together the object, moved.

        Parameters
        ----------
        model:
            After the epoch's sweep.
        shifts:
            (N, 2) pixels, of that sweep.
        epoch, epochs:
            Epochs done before this one, and in all.
        """
        progress = epoch / max(1, epochs - 1)
        prior, gain = (first * (last / first) ** progress for first, last in (self._pace.prior, self._pace.gain))
        longest = diameter_px(model.probe[0]) * LONGEST_STEP
        overlap = self._overlap(model)
        weight = np.asarray(overlap.sum(axis=1)).ravel() + 1e-12
        diagonal = (1 + prior + self._pace.damping) * weight
        stiffness = scipy.sparse.diags(diagonal) - overlap
        wanted = weight[:, None] * (_at_most(shifts, longest) - prior * self.map_of(model).rest)
        inverse = scipy.sparse.diags(1 / diagonal)
        moves = np.column_stack(
            [cg(stiffness, wanted[:, axis], rtol=1e-3, maxiter=200, M=inverse)[0] for axis in (0, 1)]
        )
        moves = _at_most(gain * (moves - moves.mean(axis=0)), longest)
        corners = model.corners + moves
        corners += (model.corners - corners).mean(axis=0)
        return replace(model, object=self._carried(model, moves), corners=np.clip(corners, self._first, self._last))

    def map_of(self, model: Model) -> AffineMap:
        """Return the affine map from the given corners to the model's."""
        return AffineMap.between(self.given, model.corners)

    def report(self, model: Model) -> str:
        """Tell people what was found, in one line."""
        stopped = int(((model.corners <= self._first) | (model.corners >= self._last)).any(axis=1).sum())
        edge = f"; {stopped} frames stand at the edge of the object and may belong beyond it" if stopped else ""
        return f"positions: {self.map_of(model)}{edge}"

    def _overlap(self, model: Model) -> scipy.sparse.csr_array:
        """Return (N, N), how much the illuminations of two frames overlap; symmetric, no frame with itself."""
        count, size = len(model.corners), model.probe.shape[-1]
        intensity = (np.abs(model.probe[0]) ** 2).sum(axis=0)
        spectrum = scipy.fft.rfft2(intensity, s=(2 * size, 2 * size))
        shared = scipy.fft.fftshift(scipy.fft.irfft2(np.abs(spectrum) ** 2))
        tree, reach = cKDTree(model.corners), diameter_px(model.probe[0])
        near, numbers = tree.query(
            model.corners, k=np.arange(min(NEIGHBOURS + 1, count)) + 1, distance_upper_bound=reach
        )
        rows, places = np.nonzero(np.isfinite(near))
        columns = np.asarray(numbers)[rows, places]
        rows, columns = rows[rows != columns], columns[rows != columns]
        apart = model.corners[rows] - model.corners[columns] + size
        values = scipy.ndimage.map_coordinates(shared / shared.max(), apart.T, order=1)
        half = scipy.sparse.csr_array((np.maximum(values, 1e-6), (rows, columns)), shape=(count, count))
        return half.maximum(half.T).tocsr()

    def _carried(self, model: Model, moves: Points) -> ComplexArray:
        """Return the object, moved by the mean of the frames that see each place."""
        if np.linalg.norm(moves, axis=1).max() < WORTH_A_WARP_PX:
            return model.object
        shape = model.object.shape[1:]
        intensity = (np.abs(model.probe[0]) ** 2).sum(axis=0)
        places = np.rint(np.clip(model.corners, self._first, self._last)).astype(np.int64)
        here = ((places >= 0) & (places <= self._within)).all(axis=1)
        places, moves = places[here], moves[here]
        sums = np.zeros((3, *shape), np.float32)
        for image, values in zip(sums, (moves[:, 0], moves[:, 1], np.ones(len(moves))), strict=True):
            np.add.at(image, (places[:, 0], places[:, 1]), values)
        light = [scipy.signal.oaconvolve(image, intensity, axes=(0, 1))[: shape[0], : shape[1]] for image in sums]
        bright = light[2] > TOO_DARK * light[2].max()
        field = np.stack([np.where(bright, part / np.where(bright, light[2], 1), 0) for part in light[:2]])
        if np.abs(field).max() < WORTH_A_WARP_PX:
            return model.object
        where = np.indices(shape, np.float32) - field.astype(np.float32)

        def moved(part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            return np.asarray(scipy.ndimage.map_coordinates(part, where, order=1, mode="nearest"), np.float32)

        return np.stack([moved(image.real) + 1j * moved(image.imag) for image in model.object]).astype(np.complex64)


def _at_most(vectors: Points, length: float) -> Points:
    """Return vectors (N, 2), none longer than `length`."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors * np.minimum(1, length / np.maximum(lengths, 1e-12)))
