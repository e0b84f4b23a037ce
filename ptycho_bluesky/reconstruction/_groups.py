"""Frames grouped by what lights them: the probe they belong to, and the fraction of a pixel it is moved by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.optics import fourier_shift
from ptycho_bluesky.reconstruction._model import ComplexArray

__all__ = ["ProbeGroups"]


@dataclass(frozen=True)
class ProbeGroups:
    """Frames grouped by probe and by the fraction of their corner, rounded to ``1 / divisions`` of a pixel.

    Each group has its own copy of its probe, moved by that fraction, while an engine works on it; afterwards the copies
    are moved back and averaged. With 1 division, corners are rounded to whole pixels: the largest error is half a
    pixel.
    """

    corners: npt.NDArray[np.int64]
    """(N, 2) whole pixels."""

    of_frame: npt.NDArray[np.int64]
    """(N,) the group of each frame."""

    sets: npt.NDArray[np.int64]
    """(G,) the probe of each group, an index of the first axis of ``Model.probe``."""

    fractions: npt.NDArray[np.float64]
    """(G, 2) pixels, within -0.5 ... 0.5."""

    @classmethod
    def of(cls, corners: npt.NDArray[np.float64], divisions: int, sets: npt.NDArray[np.int64]) -> ProbeGroups:
        """Group (N, 2) corners, in pixels, of frames with probes `sets` (N,)."""
        rounded = np.rint(corners * divisions).astype(np.int64)
        whole = np.rint(rounded / divisions).astype(np.int64)
        keys = np.column_stack([sets, rounded - whole * divisions])
        groups, of_frame = np.unique(keys, axis=0, return_inverse=True)
        return cls(whole, of_frame.ravel().astype(np.int64), groups[:, 0], groups[:, 1:] / divisions)

    def spread(self, probe: ComplexArray) -> ComplexArray:
        """Return (G, M, H, W), the probe (sets, M, H, W) of each group, moved by its fraction."""
        copies = probe[self.sets]
        return fourier_shift(copies, self.fractions[:, None]) if self.fractions.any() else copies

    def gather(self, copies: ComplexArray, visits: npt.NDArray[np.integer], probe: ComplexArray) -> ComplexArray:
        """Return (sets, M, H, W): copies (workers, G, M, H, W) moved back and averaged, weighted by `visits`.

        A probe without a visit stays what it is in `probe` (sets, M, H, W).
        """
        gathered = np.empty_like(probe)
        for number in range(len(probe)):
            mine = np.flatnonzero(self.sets == number)
            total = visits[:, mine].sum()
            if not total:
                gathered[number] = probe[number]
                continue
            shares = (visits[:, mine] / total).astype(np.float32)
            moved = np.einsum("tc,tcmij->cmij", shares, copies[:, mine])
            if self.fractions.any():
                moved = fourier_shift(moved, -self.fractions[mine, None])
            gathered[number] = moved.sum(axis=0)
        return gathered
