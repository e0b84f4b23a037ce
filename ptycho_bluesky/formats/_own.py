"""A reconstruction as an HDF5 file of our own: every field of it, and an NXdata group that any NeXus viewer shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_bluesky.errors import FormatError, report
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.formats._fields import put, record, take, values_of
from ptycho_bluesky.formats._hdf5 import new_hdf5
from ptycho_bluesky.formats._identify import RESULT_KIND

__all__ = ["read_own", "write_own"]

VERSION = 2
"""1 had the fields of the first release; 2 has whatever fields a reconstruction has."""

ARRAYS: dict[str, tuple[int, Any]] = {
    "object": (3, np.complex64),
    "probe": (3, np.complex64),
    "positions": (2, np.float64),
    "coverage": (2, np.float32),
    "errors": (1, np.float64),
}
"""Dimensions and type of the arrays that every reconstruction has."""

MEANING = {
    "object": "complex transmission of the sample (slices, rows, columns)",
    "probe": "complex illumination (modes, rows, columns), strongest mode first",
    "positions": "refined positions (N, 2): row, column",
    "coverage": "illumination of each object pixel, 1 at the most",
    "errors": "R-factor seen during each epoch",
}


def write_own(path: Path, rec: Reconstruction) -> None:
    """Write every field that is not None.

    Raises
    ------
    FormatError
        When the file cannot be written, or when a field holds what JSON cannot.
    """
    values = values_of(rec)
    values |= {key: np.asarray(values[key], dtype=dtype) for key, (_, dtype) in ARRAYS.items()}
    unit = "px" if rec.pixel_size_m is None else "m"
    with new_hdf5(path) as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry", "kind": RESULT_KIND, "version": VERSION})
        entry = file.create_group("entry")
        put(path, entry, values)
        for key, text in MEANING.items():
            entry[key].attrs["long_name"] = text
        entry["positions"].attrs["units"] = unit
        entry.attrs.update({"NX_class": "NXentry", "default": "image"})
        _write_image(entry, rec, unit)


def _write_image(entry: h5py.Group, rec: Reconstruction, unit: str) -> None:
    image = entry.create_group("image")
    image.attrs.update({"NX_class": "NXdata", "signal": "phase", "axes": ["y", "x"]})
    image["phase"] = rec.phase
    image["phase"].attrs["units"] = "rad"
    pixel = rec.pixel_size_m or 1.0
    for axis, count in zip("yx", rec.coverage.shape, strict=True):
        image[axis] = np.arange(count) * pixel
        image[axis].attrs["units"] = unit


def read_own(path: Path, file: h5py.File) -> Reconstruction:
    """Read what :func:`write_own` wrote, in this release or an earlier one.

    Raises
    ------
    FormatError
        When parts are missing, do not fit together, or are a later release's.
    """
    version = int(file.attrs.get("version", 0))
    if not 1 <= version <= VERSION:
        raise FormatError(f"{path} has layout version {version}; this release reads 1 to {VERSION}: update the package")
    values = take(file["entry"])
    for name in ("NX_class", "default"):
        values.pop(name, None)
    faults = []
    for key in (*ARRAYS, "parameters", "provenance"):
        if key not in values:
            faults.append(f"{key} is missing")
    for key, (ndim, dtype) in ARRAYS.items():
        if key not in values:
            continue
        values[key] = np.asarray(values[key], dtype=dtype)
        if values[key].ndim != ndim:
            faults.append(f"{key} has shape {values[key].shape}; allowed are {ndim} dimensions")
    if not faults and values["object"].shape[1:] != values["coverage"].shape:
        faults.append(f"object is {values['object'].shape[1:]} but coverage {values['coverage'].shape}")
    if faults:
        raise FormatError(report(f"{path} is damaged: reconstruct again, or copy the file again", faults))
    return record(path, Reconstruction, values)
