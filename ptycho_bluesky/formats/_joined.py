"""Frames that lie in several datasets, one after the other, as one source."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.formats._hdf5 import Hdf5Frames
from ptycho_bluesky.formats._view import FrameView

__all__ = ["JoinedFrames"]


class JoinedFrames:
    """Frames (N, H, W) of several sources of the same frame shape and type, in their order.

    Parameters
    ----------
    parts:
        One or more; frames are read from them when asked for.

    Raises
    ------
    FormatError
        When shapes or types differ.
    """

    def __init__(self, parts: Sequence[Hdf5Frames]) -> None:
        self.parts = tuple(parts)
        first = self.parts[0]
        for part in self.parts:
            if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
                raise FormatError(
                    f"{part.path}: {part.key} holds {part.dtype} frames of {part.shape[1:]}, but {first.key} "
                    f"{first.dtype} frames of {first.shape[1:]}; they must agree: prepare the file again"
                )
        self._first = [0, *itertools.accumulate(len(part) for part in self.parts)]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W)."""
        return (len(self), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one pixel, in the machine's byte order."""
        return self.parts[0].dtype

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: slice | int) -> npt.NDArray[Any]:
        """Return the frames of a slice, or one frame, read now from the parts that hold them."""
        if not isinstance(index, slice):
            number = operator.index(index)
            if not -len(self) <= number < len(self):
                raise IndexError(f"frame {number} of {len(self)}; allowed is {-len(self)} to {len(self) - 1}")
            number %= len(self)
            return np.asarray(self[number : number + 1][0])
        chosen = range(len(self))[index]
        ascending = chosen if chosen.step > 0 else chosen[::-1]
        found = []
        for part, first, end in zip(self.parts, self._first, self._first[1:], strict=False):
            # The members of the slice that lie in this part: the first at or after its begin.
            skip = max(0, -(-(first - ascending.start) // ascending.step))
            inside = range(ascending.start + skip * ascending.step, min(end, ascending.stop), ascending.step)
            if len(inside):
                found.append(part[inside.start - first : inside.stop - first : inside.step])
        frames = np.concatenate(found) if found else np.empty((0, *self.shape[1:]), self.dtype)
        return frames if chosen.step > 0 else frames[::-1]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Read all frames."""
        if copy is False:
            raise ValueError("frames in a file cannot become an array without a copy")
        return np.asarray(self[:], dtype=dtype)

    def viewed(self, view: FrameView, count: int) -> JoinedFrames:
        """Return the first `count` frames, as stored but for `view`."""
        lengths = [min(len(part), count - first) for part, first in zip(self.parts, self._first, strict=False)]
        return JoinedFrames([p.viewed(view, n) for p, n in zip(self.parts, lengths, strict=True) if n > 0])

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        for part in self.parts:
            part.close()

    def __enter__(self) -> JoinedFrames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"JoinedFrames({len(self.parts)} parts, shape={self.shape}, dtype={self.dtype})"
