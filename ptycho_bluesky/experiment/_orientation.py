"""How a detector is mounted and which way a stage counts: data, applied once when a dataset is loaded."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

__all__ = ["Orientation", "orientations"]


class Orientation(BaseModel):
    """One of the eight ways to mount a detector: transpose first, then flip rows, then flip columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, frames: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return `frames` (..., H, W) as the house wants them: rows down, columns to the right. A view, no copy."""
        if self.transpose:
            frames = np.swapaxes(frames, -1, -2)
        if self.flip_rows:
            frames = frames[..., ::-1, :]
        if self.flip_columns:
            frames = frames[..., ::-1]
        return frames

    def undo(self, frames: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return `frames` (..., H, W) as the detector delivers them; the inverse of :meth:`apply`."""
        if self.flip_columns:
            frames = frames[..., ::-1]
        if self.flip_rows:
            frames = frames[..., ::-1, :]
        if self.transpose:
            frames = np.swapaxes(frames, -1, -2)
        return frames

    def shape(self, frame_shape: tuple[int, int]) -> tuple[int, int]:
        """Return the (H, W) that frames of `frame_shape` have after :meth:`apply`."""
        return (frame_shape[1], frame_shape[0]) if self.transpose else frame_shape


def orientations() -> list[Orientation]:
    """Return all eight orientations, the identity first."""
    return [
        Orientation(transpose=t, flip_rows=r, flip_columns=c) for t, r, c in itertools.product((False, True), repeat=3)
    ]
