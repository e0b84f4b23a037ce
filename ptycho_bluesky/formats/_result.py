"""A reconstruction as an HDF5 file: all of it, and an NXdata group that any NeXus viewer shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_bluesky.errors import FormatError, report
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.formats._files import check_readable, replaced_when_whole
from ptycho_bluesky.formats._hdf5 import open_hdf5

__all__ = ["read_reconstruction", "write_reconstruction"]

KIND = "ptycho-bluesky reconstruction"
VERSION = 1
ARRAYS = {"object": 3, "probe": 3, "positions": 2, "coverage": 2, "errors": 1}
DTYPES: dict[str, Any] = {
    "object": np.complex64,
    "probe": np.complex64,
    "positions": np.float64,
    "coverage": np.float32,
    "errors": np.float64,
}
MEANING = {
    "object": "complex transmission of the sample (slices, rows, columns)",
    "probe": "complex illumination (modes, rows, columns), strongest mode first",
    "positions": "refined positions (N, 2): row, column",
    "coverage": "illumination of each object pixel, 1 at the most",
    "errors": "R-factor seen during each epoch",
}
TEXTS = ("engine", "modality")
NUMBERS = ("r_factor", "phase_contrast_rad")
JSON = ("parameters", "provenance")


def write_reconstruction(path: str | Path, reconstruction: Reconstruction) -> None:
    """Write `reconstruction` to an HDF5 file, which :func:`read_reconstruction` gives back without loss.

    Layout: ``/entry`` holds ``object``, ``probe``, ``positions``, ``coverage`` and ``errors``, numbers as attributes,
    ``parameters`` and ``provenance`` as JSON; ``/entry/image`` is an NXdata of the phase, for viewers. An existing
    file is replaced, and only when the new one is whole and on the disk.

    Parameters
    ----------
    path:
        Of the file, in a folder that exists.
    reconstruction:
        What to write.

    Raises
    ------
    FormatError
        When the file cannot be written (no such folder, no permission, disk full), or when `parameters` or
        `provenance` hold what JSON cannot.
    """
    path = Path(path).expanduser()
    texts = {key: _to_json(path, key, getattr(reconstruction, key)) for key in JSON}
    # A Python file below HDF5: when the disk is full the error is the system's, and no handle stays behind.
    with (
        replaced_when_whole(path) as part,
        part.open("w+b") as raw,
        h5py.File(raw, "w") as file,
    ):
        file.attrs.update({"NX_class": "NXroot", "default": "entry", "kind": KIND, "version": VERSION})
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": "image"})
        for key, dtype in DTYPES.items():
            entry[key] = np.asarray(getattr(reconstruction, key), dtype=dtype)
            entry[key].attrs["long_name"] = MEANING[key]
        unit = "px" if reconstruction.pixel_size_m is None else "m"
        entry["positions"].attrs["units"] = unit
        for key in (*TEXTS, *NUMBERS):
            entry.attrs[key] = getattr(reconstruction, key)
        entry.attrs["origin"] = np.asarray(reconstruction.origin, dtype=np.float64)
        if reconstruction.pixel_size_m is not None:
            entry.attrs["pixel_size_m"] = reconstruction.pixel_size_m
        for key, text in texts.items():
            entry[key] = text
        _write_image(entry, reconstruction, unit)


def _write_image(entry: h5py.Group, reconstruction: Reconstruction, unit: str) -> None:
    image = entry.create_group("image")
    image.attrs.update({"NX_class": "NXdata", "signal": "phase", "axes": ["y", "x"]})
    image["phase"] = reconstruction.phase
    image["phase"].attrs["units"] = "rad"
    pixel = reconstruction.pixel_size_m or 1.0
    for axis, count in zip("yx", reconstruction.coverage.shape, strict=True):
        image[axis] = np.arange(count) * pixel
        image[axis].attrs["units"] = unit


def _to_json(path: Path, key: str, value: dict[str, Any]) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise FormatError(
            f"{path} was not written: {key} holds what JSON cannot ({error}); use numbers, texts, lists and dicts"
        ) from None


def read_reconstruction(path: str | Path) -> Reconstruction:
    """Return the reconstruction that :func:`write_reconstruction` wrote.

    Raises
    ------
    FormatError
        When the file is missing, unreadable, damaged, or not such a file.
    """
    path = Path(path).expanduser()
    check_readable(path, "a reconstruction (HDF5)")
    if not h5py.is_hdf5(path):
        raise FormatError(f"{path} is not HDF5; give a file that write_reconstruction or 'reconstruct -o' made")
    with open_hdf5(path) as file:
        if file.attrs.get("kind") != KIND:
            keys = ", ".join(list(file)[:8]) or "nothing"
            raise FormatError(
                f"{path} is HDF5 but no reconstruction of ptycho-bluesky (its root holds {keys}); give a file that "
                "write_reconstruction or 'reconstruct -o' made; load_dataset reads measurements"
            )
        if (version := int(file.attrs.get("version", 0))) != VERSION:
            raise FormatError(f"{path} has layout version {version}; this release reads {VERSION}: update the package")
        try:
            return _read_entry(path, file["entry"])
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is damaged: {error}; reconstruct again, or copy the file again") from None


def _read_entry(path: Path, entry: h5py.Group) -> Reconstruction:
    arrays: dict[str, Any] = {key: np.asarray(entry[key][()], dtype=dtype) for key, dtype in DTYPES.items()}
    faults = [
        f"{key} has shape {arrays[key].shape}; allowed are {ndim} dimensions"
        for key, ndim in ARRAYS.items()
        if arrays[key].ndim != ndim
    ]
    if not faults and arrays["object"].shape[1:] != arrays["coverage"].shape:
        faults.append(f"object is {arrays['object'].shape[1:]} but coverage {arrays['coverage'].shape}")
    if faults:
        raise FormatError(report(str(path), faults))
    pixel = entry.attrs.get("pixel_size_m")
    origin = entry.attrs["origin"]
    values: dict[str, Any] = {key: str(entry.attrs[key]) for key in TEXTS}
    values |= {key: float(entry.attrs[key]) for key in NUMBERS}
    values |= {key: json.loads(entry[key].asstr()[()]) for key in JSON}
    return Reconstruction(
        **arrays,
        **values,
        origin=(float(origin[0]), float(origin[1])),
        pixel_size_m=None if pixel is None else float(pixel),
    )
