"""load_dataset: one function for every format, told apart by what the file holds, not by its name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from pydantic import ValidationError
from scipy.spatial import cKDTree

from ptycho_bluesky.errors import DatasetError, FormatError, report
from ptycho_bluesky.experiment import Modality, Orientation, PtychoDataset
from ptycho_bluesky.formats._cxi import read_cxi
from ptycho_bluesky.formats._files import check_readable
from ptycho_bluesky.formats._hdf5 import open_hdf5
from ptycho_bluesky.formats._measured import LoadOptions, Measured, assemble
from ptycho_bluesky.formats._npz import read_npz, write_npz

__all__ = ["KNOWN_FORMATS", "load_dataset", "save_dataset"]

log = logging.getLogger(__name__)

KNOWN_FORMATS = (
    "plain NPZ (frames, positions, positions_unit)",
    "tike's NPZ (data, scan, probe)",
    "CXI 1.6 and NXcxi_ptycho (HDF5)",
    "either NPZ packed with bzip2 or gzip",
)
"""What :func:`load_dataset` reads, in words."""


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
    NXcxi_ptycho. Frames
    of an HDF5 file stay in it and are read slice by slice; those of an NPZ file are in memory.

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
        When the file is missing, unreadable, damaged or of no known format.
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
    check_readable(path, "a measurement")
    found = _read(path)
    dataset = assemble(path, found, options)
    _warn_of_missing_overlap(path, dataset)
    return dataset


def save_dataset(path: str | Path, dataset: PtychoDataset) -> None:
    """Write `dataset` as a plain NPZ file, which :func:`load_dataset` gives back without loss.

    Frames are stored with their type, the zero frequency in the centre; positions in metres, or in pixels where
    ``pixel_size_m`` is None. An existing file is replaced, and only when the new one is whole.

    Raises
    ------
    DatasetError
        When the dataset has faults.
    FormatError
        When the file cannot be written: no such folder, no permission, disk full.
    """
    write_npz(Path(path).expanduser(), dataset.validate())


def _orientation(path: Path, given: Orientation | Mapping[str, bool] | None) -> Orientation:
    try:
        return Orientation.model_validate(given or {})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        raise DatasetError(report(f"orientation for {path}", faults)) from None


def _read(path: Path) -> Measured:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"PK\x03\x04"):
        return read_npz(path, None)
    if head.startswith(b"BZh"):
        return read_npz(path, "bz2")
    if head.startswith(b"\x1f\x8b"):
        return read_npz(path, "gzip")
    if head.startswith(b"\x93NUMPY"):
        raise FormatError(f"{path} is one .npy array; frames need positions beside them: np.savez both ({_known()})")
    if head == b"\x89HDF\r\n\x1a\n" or h5py.is_hdf5(path):
        with open_hdf5(path) as hdf5:
            if "entry_1" in hdf5 and ("cxi_version" in hdf5 or "entry_1/instrument_1" in hdf5):
                return _guarded_cxi(path, hdf5)
            keys = ", ".join(list(hdf5)[:8]) or "nothing"
            raise FormatError(f"{path} is HDF5 but of no known layout: its root holds {keys}; {_known()}")
    raise FormatError(f"{path} is of no known format: it begins with {head!r}; {_known()}")


def _guarded_cxi(path: Path, file: h5py.File) -> Measured:
    try:
        return read_cxi(path, file)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is a damaged CXI file: {error}; copy it again, or have it written again") from None


def _known() -> str:
    return "known are " + "; ".join(KNOWN_FORMATS)


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
