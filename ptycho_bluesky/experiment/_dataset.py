"""PtychoDataset: everything that a reconstruction needs to know of a measurement, in the house's conventions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.experiment._geometry import Geometry, Modality

__all__ = ["Frames", "ObjectGrid", "PtychoDataset"]

MOST_OBJECT_PIXELS = 4_000_000_000
"""32 GB of complex64; what is larger is a wrong unit, found before anything is allocated."""


class Frames(Protocol):
    """Diffraction patterns (N, H, W), read when they are asked for: an array, an HDF5 dataset, a Tiled client..."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one pixel."""
        ...

    def __getitem__(self, index: slice, /) -> Any:
        """Return the frames of a slice as an array."""
        ...


@dataclass(frozen=True)
class ObjectGrid:
    """The pixel grid on which an object is reconstructed.

    ``corners = (position - origin) / pixel_size`` is the upper left corner of each frame's patch, in pixels.
    """

    shape: tuple[int, int]
    """(Y, X) of the object array."""

    corners: npt.NDArray[np.float64]
    """(N, 2) patch corners (row, column) in object pixels, with their fractions."""

    origin: tuple[float, float]
    """Position (row, column) whose patch begins at pixel (0, 0), in the unit of the dataset's positions."""

    pixel_size: float
    """Side of an object pixel, in the unit of the dataset's positions."""


@dataclass(frozen=True)
class PtychoDataset:
    """A ptychographic measurement: frames, positions and what surrounds them.

    Axes: C order; frames (N, H, W) with H the slow axis (y, down), W the fast one (x, to the right), the far field's
    zero frequency in the centre ``[H // 2, W // 2]``; orientation and signs have been applied already.
    """

    frames: Frames
    """(N, H, W) counts, zero frequency in the centre (far field)."""

    positions: npt.NDArray[np.float64]
    """(N, 2) (row, column) = (y, x): the probe's centre on the sample, in metres; in object pixels where
    ``pixel_size_m`` is None."""

    geometry: Geometry | None = None
    """Energy, distances, pixels; None where they are not known (pixel units, far field)."""

    modality: Modality = "far-field"
    """Far or near field."""

    pixel_size_m: float | None = None
    """Side of an object pixel in metres; None for pixel units."""

    mask: npt.NDArray[np.bool_] | None = None
    """(H, W), True = bad pixel; None where all are good."""

    probe: npt.NDArray[np.complex64] | None = None
    """(modes, H, W) estimate of the probe, strongest mode first; None where there is none."""

    rotation_deg: float = 0.0
    """Rotation of the sample about the vertical axis, degrees."""

    timestamps: npt.NDArray[np.float64] | None = None
    """(N,) seconds since 1970, when each frame was recorded."""

    name: str = ""
    """For titles and messages: a file's name or a run's uid."""

    source: dict[str, Any] = field(default_factory=dict)
    """Where the data came from, for provenance."""

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(H, W) of a frame."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])

    def faults(self) -> list[str]:
        """Return all that is wrong with this dataset in plain words; an empty list where it can be reconstructed."""
        shape, faults = tuple(self.frames.shape), []
        if len(shape) != 3:
            return [f"frames have shape {shape}; allowed is (N, H, W)"]
        if shape[0] < 1:
            faults.append("there is no frame; at least 1 is needed")
        if shape[1] != shape[2] or shape[1] < 8:
            faults.append(f"frames are {shape[1]} x {shape[2]} pixels; they must be square, 8 x 8 or larger: crop them")
        if self.positions.ndim != 2 or self.positions.shape[-1] != 2:
            faults.append(f"positions have shape {self.positions.shape}; allowed is (N, 2), rows then columns")
        elif len(self.positions) != shape[0]:
            faults.append(
                f"{shape[0]} frames but {len(self.positions)} positions; give one position a frame, or cut the longer"
            )
        elif not np.isfinite(self.positions).all():
            faults.append(f"{int((~np.isfinite(self.positions)).any(axis=1).sum())} positions are not finite")
        if self.mask is not None and self.mask.shape != shape[1:]:
            faults.append(f"the mask has shape {self.mask.shape}, a frame {shape[1:]}; they must agree")
        elif self.mask is not None and self.mask.all():
            faults.append("the mask declares every pixel bad; it must be True on bad pixels only")
        if self.probe is not None and (
            self.probe.ndim != 3 or not len(self.probe) or self.probe.shape[1:] != shape[1:]
        ):
            faults.append(f"the probe has shape {self.probe.shape}; allowed is (modes, {shape[1]}, {shape[2]})")
        if self.pixel_size_m is not None and not self.pixel_size_m > 0:
            faults.append(f"pixel_size_m is {self.pixel_size_m}; it must be above 0, or None for pixel units")
        if self.modality == "near-field" and (self.geometry is None or self.geometry.modality != "near-field"):
            faults.append("near field needs a geometry with modality 'near-field': energy, distances, detector pixel")
        if self.modality == "far-field" and self.geometry is not None and self.geometry.modality != "far-field":
            faults.append("the dataset is far field but its geometry has modality 'near-field'; make them agree")
        if self.timestamps is not None and self.timestamps.shape != shape[:1]:
            faults.append(f"timestamps have shape {self.timestamps.shape}; allowed is {shape[:1]}, one a frame")
        return faults

    def validate(self) -> PtychoDataset:
        """Return this dataset, or raise one error with everything that is wrong.

        Raises
        ------
        DatasetError
            When :meth:`faults` finds any.
        """
        if faults := self.faults():
            raise DatasetError(report(f"dataset {self.name or '(unnamed)'}", faults))
        return self

    def batches(self, size: int = 64) -> Iterator[tuple[slice, npt.NDArray[np.number[Any]]]]:
        """Yield ``(slice, frames)`` of at most `size` frames each, so that no more than that is in memory."""
        for start in range(0, len(self), size):
            chosen = slice(start, min(start + size, len(self)))
            yield chosen, np.asarray(self.frames[chosen])

    def object_grid(self, margin: int = 16) -> ObjectGrid:
        """Return the grid that holds every patch with `margin` pixels to spare on each side.

        Raises
        ------
        DatasetError
            When the object would have more than 4e9 pixels: positions or pixel size in a wrong unit.
        """
        pixel = self.pixel_size_m or 1.0
        first = self.positions.min(axis=0) - margin * pixel
        corners = (self.positions - first) / pixel
        height, width = (int(v) for v in np.ceil(corners.max(axis=0)) + np.array(self.frame_shape) + margin)
        if height * width > MOST_OBJECT_PIXELS:
            raise DatasetError(
                f"dataset {self.name or '(unnamed)'}: positions span {height} x {width} object pixels of {pixel:g}; "
                f"allowed are {MOST_OBJECT_PIXELS:.0e} in all: check the unit of the positions and the geometry"
            )
        return ObjectGrid((height, width), corners, (float(first[0]), float(first[1])), pixel)

    def subset(self, index: slice | npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> PtychoDataset:
        """Return the dataset of some frames, in memory; `index`: slice, numbers (n,), or (N,) True = wanted."""
        chosen = np.arange(len(self))[index]
        first, last = (int(chosen.min()), int(chosen.max())) if len(chosen) else (0, -1)
        frames = np.asarray(self.frames[slice(first, last + 1)])
        if len(chosen) != len(frames) or not (np.diff(chosen) == 1).all():
            frames = frames[chosen - first]
        times = None if self.timestamps is None else self.timestamps[chosen]
        return replace(self, frames=frames, positions=self.positions[chosen], timestamps=times)

    def finite_frames(self) -> npt.NDArray[np.bool_]:
        """Return (N,) True for the frames that can be used: finite, not negative, with at least one count."""
        usable = np.zeros(len(self), bool)
        for chosen, frames in self.batches():
            good = frames if self.mask is None else frames[:, ~self.mask]
            good = good.reshape(len(frames), -1)
            usable[chosen] = np.isfinite(good).all(axis=1) & (good.min(axis=1) >= 0) & (good.max(axis=1) > 0)
        return usable
