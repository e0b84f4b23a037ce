"""Some of a dataset's frames, read where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import Frames
from ptycho_bluesky.reconstruction._amplitudes import GAP, Numbers

__all__ = ["SomeFrames"]


class SomeFrames:
    """Some frames of a dataset, which stay where they are.

    Parameters
    ----------
    frames:
        (N, H, W), read by slices.
    numbers:
        (n,) which of them, rising.
    """

    def __init__(self, frames: Frames, numbers: Numbers) -> None:
        self._frames, self._numbers = frames, numbers

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W)."""
        return (len(self._numbers), *self._frames.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one pixel."""
        return self._frames.dtype

    def __getitem__(self, index: slice, /) -> npt.NDArray[Any]:
        """Read the frames of a slice, in runs of neighbours."""
        wanted = self._numbers[index]
        if not len(wanted):
            return np.empty((0, *self._frames.shape[1:]), self.dtype)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > GAP) + 1)
        return np.concatenate([np.asarray(self._frames[slice(int(r[0]), int(r[-1]) + 1)])[r - r[0]] for r in runs])
