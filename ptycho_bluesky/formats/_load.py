"""load_dataset and save_dataset: one function each for every format; what is read is told by its content."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError
from scipy.spatial import cKDTree

from ptycho_bluesky.errors import DatasetError, FormatError, report
from ptycho_bluesky.experiment import Modality, Orientation, PtychoDataset
from ptycho_bluesky.formats._cxi import read_cxi
from ptycho_bluesky.formats._cxi_write import write_cxi
from ptycho_bluesky.formats._hdf5 import open_hdf5
from ptycho_bluesky.formats._identify import KNOWN_FORMATS, identify
from ptycho_bluesky.formats._measured import LoadOptions, Measured, assemble
from ptycho_bluesky.formats._npz import read_npz, write_npz
from ptycho_bluesky.formats._ptyd import read_ptyd, write_ptyd

__all__ = ["DatasetFormat", "load_dataset", "save_dataset"]

log = logging.getLogger(__name__)

DatasetFormat = Literal["npz", "cxi", "nxcxi", "ptyd"]
"""Layouts that :func:`save_dataset` writes."""

WRITERS: dict[DatasetFormat, Callable[[Path, PtychoDataset], None]] = {
    "npz": write_npz,
    "cxi": lambda path, dataset: write_cxi(path, dataset, nexus=False),
    "nxcxi": lambda path, dataset: write_cxi(path, dataset, nexus=True),
    "ptyd": write_ptyd,
}
SUFFIXES: dict[str, DatasetFormat] = {".cxi": "cxi", ".ptyd": "ptyd"}
SUFFIXES |= dict.fromkeys((".nxs", ".h5", ".hdf5"), "nxcxi")


def load_dataset(
    path: str | Path,
    *,
    energy_kev: float | None = None,
    distance_m: float | None = None,
    detector_pixel_m: float | None = None,
    focus_to_sample_m: float | None = None,
    modality: Modality | None = None,
    orientation: Orientation | Mapping[str, bool] | None = None,
    axis_signs: Sequence[int] | None = None,
    swap_axes: bool = False,
    beam_center_px: Sequence[float] | None = None,
    crop: int | None = None,
    max_frames: int | None = None,
) -> PtychoDataset:
    """Read a measurement from a file, in the house's conventions.

    The format is told from the content: plain NPZ, tike's NPZ (both also packed with bzip2 or gzip), CXI 1.6,
    NXcxi_ptycho, PtyPy's .ptyd. Frames of an HDF5 file stay in it and are read slice by slice; those of an NPZ file
    are in memory.

    Parameters
    ----------
    path:
        Of the file; its suffix does not matter.
    energy_kev, distance_m, detector_pixel_m:
        Photon energy (keV), sample to detector (metres), side of a detector pixel (metres); each wins over the file's.
    focus_to_sample_m:
        From the focus to the sample, metres. Only a cone beam's near field has one, so giving it makes the dataset
        near field unless `modality` says otherwise.
    modality:
        ``"far-field"`` or ``"near-field"``. None: near field where `focus_to_sample_m` is given or the file says so,
        else far field. CXI does not tell; a log warning is given where far-field patches would hardly overlap.
    orientation:
        How the detector is mounted, or its fields in a dict; applied to frames and mask. None takes frames as stored.
    axis_signs:
        Two of 1 and -1, for rows and columns: multiply the positions as read. For CXI these are the file's sample
        translations projected on the detector's axes, negated: ``(+y, +x)`` where rows run along -y, columns along -x.
    swap_axes:
        Swap the two columns of the positions, before the signs.
    beam_center_px:
        Where the direct beam meets the stored frame (row, column). Frames are cropped such that it comes to the
        middle ``[H // 2, W // 2]``; without `crop`, to the largest such square.
    crop:
        Side, in pixels, of the square that is kept around the middle or `beam_center_px`. In the far field the object's
        pixel grows accordingly, and a stored probe is cropped in Fourier space.
    max_frames:
        Use only so many frames from the start.

    Returns
    -------
    PtychoDataset
        Validated. Positions are in metres where the object's pixel size is known, else in object pixels.

    Raises
    ------
    FormatError
        When the file is missing, unreadable, damaged, of no known format, or holds a result and no measurement.
    DatasetError
        When its content, with the options, makes no dataset; the text names every fault.
    """
    path = Path(path).expanduser()
    options = LoadOptions(
        energy_kev=energy_kev,
        distance_m=distance_m,
        detector_pixel_m=detector_pixel_m,
        focus_to_sample_m=focus_to_sample_m,
        modality=modality,
        orientation=_orientation(path, orientation),
        axis_signs=axis_signs,
        swap_axes=swap_axes,
        beam_center_px=beam_center_px,
        crop=crop,
        max_frames=max_frames,
    )
    if faults := options.faults():
        raise DatasetError(report(f"options for {path}", faults))
    found = _read(path)
    dataset = assemble(path, found, options)
    _warn_of_missing_overlap(path, dataset)
    return dataset


def save_dataset(path: str | Path, dataset: PtychoDataset, format: DatasetFormat | None = None) -> None:
    """Write `dataset` to a file, which :func:`load_dataset` gives back without loss.

    Frames are stored with their type, the zero frequency in the centre. An existing file is replaced, and only when
    the new one is whole. What another program's layout has no place for stands in a group ``ptycho_bluesky`` of the
    file, which that program passes over; the log says what.

    Parameters
    ----------
    path:
        Of the file, in a folder that exists.
    dataset:
        What to write; frames are read batch by batch.
    format:
        ``"npz"``: plain NPZ, positions in metres, or in pixels where ``pixel_size_m`` is None. ``"cxi"``: CXI 1.6.
        ``"nxcxi"``: NXcxi_ptycho. ``"ptyd"``: PtyPy. None takes the suffix's: ``.cxi``, ``.ptyd``, ``"nxcxi"`` for
        ``.nxs``, ``.h5`` and ``.hdf5``, and ``"npz"`` for any other. All but ``"npz"`` need positions in metres.

    Raises
    ------
    DatasetError
        When the dataset has faults.
    FormatError
        When the file cannot be written (no such folder, no permission, disk full), or when the format holds metres
        and positions are in pixels.
    """
    path = Path(path).expanduser()
    chosen = format or SUFFIXES.get(path.suffix.lower(), "npz")
    if chosen not in WRITERS:
        raise FormatError(
            f"{path} was not written: format is {chosen!r}; allowed for measurements are {', '.join(WRITERS)}"
        )
    WRITERS[chosen](path, dataset.validate())


def _orientation(path: Path, given: Orientation | Mapping[str, bool] | None) -> Orientation:
    try:
        return Orientation.model_validate(given or {})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        raise DatasetError(report(f"orientation for {path}", faults)) from None


def _read(path: Path) -> Measured:
    kind = identify(path, "a measurement")
    if not kind.measurement:
        raise FormatError(
            f"{path} holds a result ({kind.layout}), no measurement: frames are not in it; read_reconstruction reads "
            f"it. Measurements known are {'; '.join(KNOWN_FORMATS)}"
        )
    if kind.layout == "npz":
        return read_npz(path, kind.packing)
    name, reader = {"cxi": ("CXI", read_cxi), "ptyd": (".ptyd", read_ptyd)}[kind.layout]
    with open_hdf5(path) as file:
        try:
            return reader(path, file)
        except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path} is a damaged {name} file: {error}; copy it again, or have it written again"
            ) from None


def _warn_of_missing_overlap(path: Path, dataset: PtychoDataset) -> None:
    """Far-field positions further apart than half the patch cannot overlap: a wrong unit, or not a far field at all."""
    if dataset.modality != "far-field" or dataset.pixel_size_m is None or len(dataset) < 2:
        return
    nearest = np.asarray(cKDTree(dataset.positions).query(dataset.positions, k=2)[0])[:, 1]
    step, patch = float(np.median(nearest)), dataset.frame_shape[0] * dataset.pixel_size_m
    if step > patch / 2:
        log.warning(
            "%s: positions are %.3g m apart but a frame's patch is %.3g m wide, so neighbours hardly overlap. Are the "
            "positions in metres, energy and distances right? A near field wants focus_to_sample_m (cone beam) or "
            "modality='near-field'",
            path,
            step,
            patch,
        )
