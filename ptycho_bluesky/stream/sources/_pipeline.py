"""From what a detector delivers to what the rest works on: bad pixels gone, cropped about the beam, binned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.stream.sources._centre import find_centre
from ptycho_bluesky.stream.sources._frame import DamagedFrame

__all__ = ["DetectorOptions", "DetectorPipeline"]


class DetectorOptions(BaseModel):
    """The quirks of a detector, and the part of it that is used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: Literal[8, 16, 32] | None = None
    """Depth of the counters, whose largest value marks gaps and dead pixels; negative numbers are marks too. None: that
    of the frames' dtype (255 is a count then). Give 16 where 16-bit counters come as 32-bit numbers."""

    saturation: int | None = Field(default=None, ge=1)
    """Counts from which a pixel is no longer linear; None where that does not happen."""

    max_saturated: float = Field(default=0.01, ge=0, le=1)
    """Part of the used pixels that may be saturated; a frame with more is refused."""

    centre_px: tuple[float, float] | None = None
    """(row, column) where the direct beam meets the detector; None for [H // 2, W // 2], with which a bin begins."""

    crop_px: int | None = Field(default=None, ge=2)
    """Side of the square about the centre that is used, a multiple of `bin`; None for the whole frame."""

    bin: int = Field(default=1, ge=1, le=64)
    """Pixels along a side that are added up to one."""


class DetectorPipeline:
    """Prepares the frames of one detector.

    Parameters
    ----------
    options:
        The detector's quirks.
    frame_shape:
        (H, W) as it delivers frames.
    bad:
        (H, W) True on bad pixels; None where all are good.

    Raises
    ------
    DatasetError
        When these do not fit together; all faults in one text.
    """

    def __init__(
        self, options: DetectorOptions, frame_shape: tuple[int, int], bad: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self.options, self.frame_shape = options, (int(frame_shape[0]), int(frame_shape[1]))
        self._whole_mask = bad
        self._rows, self._columns = self._region()
        self._bad = None if bad is None else np.ascontiguousarray(bad[self._rows, self._columns])
        self.mask = None if self._bad is None else _binned(self._bad.astype(np.float32), options.bin) > 0
        """(h, w) of prepared frames, True where at least one pixel was bad; None where all are good."""
        self.shape = tuple((part.stop - part.start) // options.bin for part in (self._rows, self._columns))
        """(h, w) of prepared frames."""

    def _region(self) -> tuple[slice, slice]:
        options, faults, parts = self.options, [], []
        if self._whole_mask is not None and self._whole_mask.shape != self.frame_shape:
            faults.append(f"the mask has shape {self._whole_mask.shape}, frames have {self.frame_shape}")
        elif self._whole_mask is not None and self._whole_mask.all():
            faults.append("the mask says that every pixel is bad; True must mark bad pixels only")
        for axis, length in zip(("rows", "columns"), self.frame_shape, strict=True):
            size = length if options.crop_px is None else options.crop_px
            if size % options.bin:
                faults.append(f"{size} {axis} cannot be binned by {options.bin}; give crop_px, a multiple of it")
            at = None if options.centre_px is None else options.centre_px[axis == "columns"]
            if options.crop_px is None:
                parts.append(slice(0, size))
                continue
            # the zero frequency shall lie in the middle of the bin [size // bin // 2]
            middle = length // 2 if at is None else round(at - (options.bin - 1) / 2)
            start = middle - size // options.bin // 2 * options.bin
            if start < 0 or start + size > length:
                faults.append(f"{size} {axis} about {axis[:-1]} {middle} leave the frame's {length}; crop fewer")
            parts.append(slice(start, start + size))
        if options.crop_px is None and options.centre_px is not None:
            faults.append("centre_px is given but no crop_px, without which it has no use")
        if faults:
            raise DatasetError(report("detector", faults))
        return parts[0], parts[1]

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return a frame (h, w) float32 of counts, bad and saturated pixels 0, pixels of a bin added up.

        Raises
        ------
        DamagedFrame
            When the frame has another shape, is no picture of numbers, or is saturated.
        """
        if pixels.shape != self.frame_shape:
            raise DamagedFrame(f"shape {pixels.shape} instead of {self.frame_shape}")
        if pixels.dtype.kind not in "uif":
            raise DamagedFrame(f"{pixels.dtype.name} instead of numbers")
        used = pixels[self._rows, self._columns]
        frame = used.astype(np.float32)
        if self._bad is not None:
            frame[self._bad] = 0
        marked = self._marked(used)
        if marked is not None:
            frame[marked] = 0
        if self.options.saturation is not None:
            saturated = frame >= self.options.saturation
            count = int(np.count_nonzero(saturated))
            if count > self.options.max_saturated * frame.size:
                raise DamagedFrame("saturated")
            if count:
                frame[saturated] = 0
        return _binned(frame, self.options.bin)

    def _marked(self, used: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Return where the detector says that it measured nothing; None for nowhere."""
        if used.dtype.kind == "f":
            return np.asarray(~np.isfinite(used))
        bits = self.options.bits or 8 * used.dtype.itemsize
        top = 2**bits - 1
        saturates_there = self.options.saturation is not None and self.options.saturation >= top
        if used.dtype.kind == "i":
            return np.asarray(used < 0)
        if (self.options.bits is None and bits == 8) or saturates_there:  # 255 counts are counts
            return None
        return np.asarray(used == top)

    def find_centre(self, frames: Sequence[npt.NDArray[Any]]) -> DetectorPipeline:
        """Return a pipeline whose centre is that of the bright field in the mean of raw `frames` (H, W).

        Raises
        ------
        DamagedFrame
            When a frame cannot be used.
        DatasetError
            When there are no frames, no bright field is found, or the crop about it leaves the frame.
        """
        if not frames:
            raise DatasetError("the centre is found from the mean of frames, but there are none; give 10 or more")
        whole = DetectorPipeline(
            self.options.model_copy(update={"crop_px": None, "centre_px": None, "bin": 1}),
            self.frame_shape,
            self._whole_mask,
        )
        mean = np.zeros(self.frame_shape, np.float64)
        marked = np.zeros(self.frame_shape, bool) if self._whole_mask is None else self._whole_mask.copy()
        for frame in frames:
            mean += whole(frame)
            found = whole._marked(frame)
            if found is not None:
                marked |= found
        centre = find_centre(mean / len(frames), marked)
        return DetectorPipeline(
            self.options.model_copy(update={"centre_px": centre}), self.frame_shape, self._whole_mask
        )


def _binned(frame: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    """Return the sums over `factor` x `factor` pixels; strided sums are thrice as fast as a reshaped one."""
    if factor == 1:
        return frame
    rows = frame[::factor].copy()
    for k in range(1, factor):
        rows += frame[k::factor]
    sums = rows[:, ::factor].copy()
    for k in range(1, factor):
        sums += rows[:, k::factor]
    return sums
