"""What a reader found in a file, and the one way from there to a dataset in the house's conventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from ptycho_bluesky.errors import DatasetError, FormatError, report
from ptycho_bluesky.experiment import Geometry, Modality, Orientation, PtychoDataset
from ptycho_bluesky.formats._hdf5 import Hdf5Frames
from ptycho_bluesky.formats._joined import JoinedFrames
from ptycho_bluesky.formats._view import FrameView

__all__ = ["LoadOptions", "Measured", "assemble"]


@dataclass(frozen=True)
class LoadOptions:
    """The options of :func:`load_dataset`, which describes them."""

    energy_kev: float | None = None
    distance_m: float | None = None
    detector_pixel_m: float | None = None
    focus_to_sample_m: float | None = None
    modality: Modality | None = None
    orientation: Orientation = field(default_factory=Orientation)
    axis_signs: Sequence[int] | None = None
    swap_axes: bool = False
    beam_center_px: Sequence[float] | None = None
    crop: int | None = None
    max_frames: int | None = None

    def faults(self) -> list[str]:
        """Return what is wrong with the options themselves."""
        faults = []
        if self.axis_signs is not None and (len(self.axis_signs) != 2 or not set(self.axis_signs) <= {-1, 1}):
            faults.append(f"axis_signs is {self.axis_signs}; allowed are two of 1 and -1, e.g. (1, -1)")
        if self.beam_center_px is not None and len(self.beam_center_px) != 2:
            faults.append(f"beam_center_px is {self.beam_center_px}; allowed are two numbers: row, column")
        if self.crop is not None and self.crop < 8:
            faults.append(f"crop is {self.crop}; allowed is the side of a square in pixels, 8 or more")
        if self.max_frames is not None and self.max_frames < 1:
            faults.append(f"max_frames is {self.max_frames}; allowed is 1 or more")
        if self.modality not in (None, "far-field", "near-field"):
            faults.append(f"modality is {self.modality!r}; allowed are 'far-field' and 'near-field'")
        return faults


@dataclass(frozen=True)
class Measured:
    """Content of a file, as stored but for units: SI, keV and object pixels."""

    format: str
    frames: npt.NDArray[Any] | Hdf5Frames | JoinedFrames
    positions: npt.NDArray[np.float64]
    positions_unit: Literal["m", "px"]
    zero_frequency: Literal["center", "corner"] = "center"
    modality: Modality | None = None
    energy_kev: float | None = None
    distance_m: float | None = None
    detector_pixel_m: float | None = None
    focus_to_sample_m: float | None = None
    beam_center_px: tuple[float, float] | None = None
    pixel_size_m: float | None = None
    mask: npt.NDArray[np.bool_] | None = None
    probe: npt.NDArray[np.complex64] | None = None
    rotation_deg: float = 0.0
    timestamps: npt.NDArray[np.float64] | None = None
    name: str = ""
    source: dict[str, Any] = field(default_factory=dict)


def assemble(path: Path, found: Measured, options: LoadOptions) -> PtychoDataset:
    """Return the validated dataset: options over the file's values, orientation, signs, crop and units applied."""
    frames = found.frames
    if len(frames.shape) != 3:
        raise DatasetError(f"{path}: frames have shape {frames.shape}; allowed is (N, H, W)")
    if np.dtype(frames.dtype).kind not in "uif":
        raise FormatError(f"{path}: frames are {frames.dtype}; allowed are counts, integer or floating point")
    count, stored = int(frames.shape[0]), (int(frames.shape[1]), int(frames.shape[2]))
    faults = _lengths(found, count, stored)
    if faults:
        raise DatasetError(report(str(path), faults))

    geometry, modality = _geometry(path, found, options)
    if found.zero_frequency == "corner" and (modality == "near-field" or options.beam_center_px is not None):
        raise DatasetError(
            f"{path}: its frames have the zero frequency in the corner, as far-field frames can; the near field and "
            "beam_center_px do not go with that: leave them out, or mend zero_frequency in the file"
        )
    view = FrameView(stored, options.orientation, found.zero_frequency == "corner")
    view = replace(view, window=_window(path, view, options))
    if geometry is not None:
        middle = geometry.beam_center_px
        middle = None if middle is None or view.window is not None else view.place(middle)
        geometry = geometry.model_copy(update={"beam_center_px": middle})
    keep = count if options.max_frames is None else min(options.max_frames, count)
    if isinstance(frames, Hdf5Frames | JoinedFrames):
        kept: Any = frames.viewed(view, keep)
    else:
        kept = np.ascontiguousarray(view.apply(frames[:keep]), dtype=frames.dtype.newbyteorder("="))

    side, full = view.shape[0], view.oriented[0]
    in_pixels = found.positions_unit == "px" or found.pixel_size_m is not None
    if view.window is not None and modality == "far-field" and full != view.oriented[1] and in_pixels:
        raise DatasetError(
            f"{path}: frames are {stored[0]} x {stored[1]} pixels, so an object pixel is not the same along rows and "
            "columns, and positions in pixels or pixel_size_m say nothing once they are cropped; give positions in "
            "metres with energy_kev, distance_m and detector_pixel_m"
        )
    scale = full / side if modality == "far-field" else 1.0  # a smaller detector sees larger object pixels
    positions, pixel = found.positions, _pixel(path, found, geometry, side, scale)
    if found.positions_unit == "px":
        positions = positions / scale if pixel is None else positions * (pixel / scale)
    positions = positions[:, ::-1] if options.swap_axes else positions
    positions = positions[:keep] * np.asarray(options.axis_signs or (1, 1), dtype=np.float64)
    dataset = PtychoDataset(
        frames=kept,
        positions=np.ascontiguousarray(positions, dtype=np.float64),
        geometry=geometry,
        modality=modality,
        pixel_size_m=pixel,
        mask=None if found.mask is None else np.ascontiguousarray(view.apply(found.mask)),
        probe=None if found.probe is None else _cropped_probe(found.probe, view, modality),
        rotation_deg=found.rotation_deg,
        timestamps=None if found.timestamps is None else found.timestamps[:keep],
        name=found.name or path.name,
        source=found.source or {"path": str(path.absolute()), "format": found.format},
    )
    if faults := dataset.faults():
        if side != view.shape[1]:
            faults.append(f"crop={min(view.shape) // 2 * 2} would make the frames square")
        raise DatasetError(report(str(path), faults))
    return dataset


def _lengths(found: Measured, count: int, stored: tuple[int, int]) -> list[str]:
    faults = []
    if found.positions.ndim != 2 or found.positions.shape[1] != 2:
        faults.append(f"positions have shape {found.positions.shape}; allowed is (N, 2), rows then columns")
    elif len(found.positions) != count:
        faults.append(
            f"{count} frames but {len(found.positions)} positions; give one position a frame, or cut the longer"
        )
    if found.mask is not None and found.mask.shape != stored:
        faults.append(f"the mask has shape {found.mask.shape}, a frame {stored}; they must agree")
    if found.probe is not None and (found.probe.ndim != 3 or not found.probe.shape[0]):
        faults.append(f"the probe has shape {found.probe.shape}; allowed is (modes, H, W)")
    if found.timestamps is not None and found.timestamps.shape != (count,):
        faults.append(f"timestamps have shape {found.timestamps.shape}; allowed is ({count},), one a frame")
    return faults


def _geometry(path: Path, found: Measured, options: LoadOptions) -> tuple[Geometry | None, Modality]:
    """Join file and options; a distance from the focus makes a near field, since only a cone beam has one."""
    names = ("energy_kev", "distance_m", "detector_pixel_m")
    focus = options.focus_to_sample_m if options.focus_to_sample_m is not None else found.focus_to_sample_m
    modality: Modality = options.modality or (
        "near-field" if options.focus_to_sample_m is not None else found.modality or "far-field"
    )
    if modality == "far-field" and options.focus_to_sample_m is None:
        focus = None
    given: dict[str, Any] = {}
    for name in names:
        value = getattr(options, name)
        given[name] = getattr(found, name) if value is None else value
    missing = [name for name in names if given[name] is None]
    if missing and modality == "near-field":
        raise DatasetError(f"{path}: the near field needs a geometry and {', '.join(missing)} is missing; give it")
    if missing:
        asked = [name for name in (*names, "focus_to_sample_m") if getattr(options, name) is not None]
        if asked:
            raise DatasetError(
                f"{path}: {', '.join(asked)} given but {', '.join(missing)} is missing; give all or none"
            )
        return None, modality
    given["beam_center_px"] = options.beam_center_px if options.beam_center_px is not None else found.beam_center_px
    try:
        geometry = Geometry(**given, modality=modality, focus_to_sample_m=focus)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        raise DatasetError(report(f"geometry of {path}", faults)) from None
    return geometry, modality


def _pixel(path: Path, found: Measured, geometry: Geometry | None, side: int, scale: float) -> float | None:
    """Return the object's pixel in metres, from the file or the geometry; None where only pixels are known."""
    stored = None if found.pixel_size_m is None else found.pixel_size_m * scale
    computed = None if geometry is None else geometry.pixel_size_m(side)
    if stored is not None and computed is not None and abs(stored / computed - 1) > 0.05:
        raise DatasetError(
            f"{path}: pixel_size_m is {stored:.4g} but energy, distance and detector pixel give {computed:.4g}; "
            "correct the wrong one, or leave pixel_size_m out"
        )
    pixel = computed if stored is None else stored
    if pixel is None and found.positions_unit == "m":
        raise DatasetError(
            f"{path}: positions are in metres but the object's pixel size is not known; give energy_kev, distance_m "
            "and detector_pixel_m (or pixel_size_m in the file)"
        )
    return pixel


def _window(path: Path, view: FrameView, options: LoadOptions) -> tuple[int, int, int] | None:
    """Return (row, column, side) of the square around the beam's centre; the centre comes to ``side // 2``."""
    height, width = view.oriented
    if options.crop is None and options.beam_center_px is None:
        return None
    middle = (height // 2, width // 2)
    center = middle
    if options.beam_center_px is not None:
        row, column = view.place((options.beam_center_px[0], options.beam_center_px[1]))
        center = (round(row), round(column))
    room = 2 * min(center[0], center[1], height - center[0], width - center[1])
    side = options.crop or room
    row, column = center[0] - side // 2, center[1] - side // 2
    if side < 8 or min(row, column) < 0 or row + side > height or column + side > width:
        raise DatasetError(
            f"{path}: a square of {side} pixels around {center} leaves the frame of {height} x {width} pixels; "
            f"crop may be 8 to {max(room, 0)}, or give another beam_center_px"
        )
    return row, column, side


def _cropped_probe(probe: npt.NDArray[np.complex64], view: FrameView, modality: Modality) -> npt.NDArray[np.complex64]:
    """Crop a probe as its frames are: on the detector in the far field, on the sample in the near field."""
    full, side = view.oriented, view.shape[0]
    if view.window is None or probe.shape[1:] != full:
        return probe
    first = (full[0] // 2 - side // 2, full[1] // 2 - side // 2)
    inner = (slice(None), slice(first[0], first[0] + side), slice(first[1], first[1] + side))
    if modality == "near-field":
        return np.ascontiguousarray(probe[inner])
    wave = np.fft.fftshift(np.fft.fft2(probe, norm="ortho"), axes=(1, 2))[inner]
    return np.asarray(np.fft.ifft2(np.fft.ifftshift(wave, axes=(1, 2)), norm="ortho"), dtype=np.complex64)
