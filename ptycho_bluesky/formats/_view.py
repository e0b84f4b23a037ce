"""From frames as they are stored to frames as the house wants them: orientation, zero frequency, crop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import Orientation

__all__ = ["FrameView"]


@dataclass(frozen=True)
class FrameView:
    """What is done to each frame (and the mask) when it is read; the steps in the order of the fields."""

    stored: tuple[int, int]
    """(H, W) as stored."""

    orientation: Orientation = field(default_factory=Orientation)
    """Applied first."""

    zero_frequency_in_corner: bool = False
    """Roll the stored pixel [0, 0] to the middle ``[H // 2, W // 2]``."""

    window: tuple[int, int, int] | None = None
    """(first row, first column, side) of the square that is kept, in the oriented frame; None keeps all."""

    @property
    def oriented(self) -> tuple[int, int]:
        """(H, W) after the orientation, before the crop."""
        return self.orientation.shape(self.stored)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the frames that :meth:`apply` returns."""
        return self.oriented if self.window is None else (self.window[2], self.window[2])

    def place(self, pixel: tuple[float, float]) -> tuple[float, float]:
        """Return where a stored pixel (row, column) lies in the oriented frame."""
        row, column = (pixel[1], pixel[0]) if self.orientation.transpose else pixel
        height, width = self.oriented
        if self.orientation.flip_rows:
            row = height - 1 - row
        if self.orientation.flip_columns:
            column = width - 1 - column
        return row, column

    def apply(self, frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return stored `frames` (..., H, W) in the house's convention; a view where that is possible."""
        frames = self.orientation.apply(frames)
        if self.zero_frequency_in_corner:
            height, width = self.oriented
            row, column = (int(v) for v in self.place((0, 0)))
            frames = np.roll(frames, (height // 2 - row, width // 2 - column), axis=(-2, -1))
        if self.window is not None:
            row, column, side = self.window
            frames = frames[..., row : row + side, column : column + side]
        return frames
