"""PtyPy's result, ``.ptyr``: probe and object storages with their pixel size and the place of their pixel [0, 0].

Positions are those of a patch's centre, (row, column) in metres, so that the patch of a frame begins at
``(position - origin) / psize - ceil(size / 2)``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.formats._cxi_write import in_metres
from ptycho_bluesky.formats._fields import keep_hdf5, kept_hdf5, values_of
from ptycho_bluesky.formats._foreign import FoundResult, assemble_result, geometry_of
from ptycho_bluesky.formats._hdf5 import new_hdf5
from ptycho_bluesky.formats._ptypy import pair, put_param, scalar

__all__ = ["read_ptyr", "write_ptyr"]

log = logging.getLogger(__name__)

HELD = {"object", "probe", "positions", "origin", "pixel_size_m"}
STORAGE = "SscanG00"
HEADER = {"kind": "minimal", "description": "Ptypy .h5 compatible storage format"}


def read_ptyr(path: Path, file: h5py.File) -> Reconstruction:
    """Read the first object, the probe of the same name, and the positions."""
    content, kept = file["content"], kept_hdf5(file)
    name = _first(path, content, "obj")
    obj = content["obj"][name]
    probe_name = name if f"probe/{name}" in content else _first(path, content, "probe")
    probe = content["probe"][probe_name]
    pixel = pair(path, obj, "_psize")
    if pixel is None or not pixel[0] > 0 or abs(pixel[1] / pixel[0] - 1) > 1e-3:
        raise FormatError(f"{path}: _psize of object {name} is {pixel}; allowed are two equal numbers above 0, metres")
    corner, center = pair(path, obj, "_origin"), pair(path, obj, "_center")
    if corner is None and center is None:
        raise FormatError(f"{path}: object {name} has neither _origin nor _center; save the run again")
    corner = corner if corner is not None else -np.asarray(center) * pixel
    positions = content.get(f"positions/{name}")
    if positions is None:
        raise FormatError(
            f"{path} holds no positions of {name}; PtyPy writes them with io.autosave.rfile and record_positions = "
            "True: save the run again"
        )
    pixels, size = np.asarray(obj["data"][()]), probe["data"].shape[-2:]
    if len(pixels) > 1 and not kept:
        log.warning("%s: its object has %d modes; they are read as slices", path, len(pixels))
    row, column = corner + np.ceil(np.array(size) / 2) * pixel
    scan = _scan(content)
    found = FoundResult(
        layout="ptypy",
        object=pixels,
        probe=np.asarray(probe["data"][()]),
        positions=np.asarray(positions[()], np.float64),
        origin=(float(row), float(column)),
        pixel_size_m=float(pixel[0]),
        errors=_errors(content),
        energy_kev=None if scan is None else scalar(path, scan, "energy"),
        distance_m=None if scan is None else scalar(path, scan, "distance"),
    )
    return assemble_result(path, found, kept)


def _first(path: Path, content: h5py.Group, what: str) -> str:
    names = sorted(content[what]) if what in content else []
    if not names:
        raise FormatError(f"{path} is a .ptyr file without {what}; save the run again")
    if len(names) > 1:
        log.warning("%s holds %d storages of %s; only %s is read", path, len(names), what, names[0])
    return str(names[0])


def _scan(content: h5py.Group) -> h5py.Group | None:
    """Return the first scan's parameters of the measurement."""
    scans = content.get("pars/scans")
    found = [] if scans is None else [scans[name].get("data") for name in sorted(scans)]
    return next((group for group in found if isinstance(group, h5py.Group)), None)


def _errors(content: h5py.Group) -> npt.NDArray[np.float64]:
    """Return the first of PtyPy's three errors of each iteration that was recorded."""
    history = content.get("runtime/iter_info")
    if not isinstance(history, h5py.Group):
        return np.empty(0)
    found = [np.ravel(history[name]["error"][()]) for name in sorted(history) if "error" in history[name]]
    return np.array([error[0] for error in found if error.size], np.float64)


def write_ptyr(path: Path, rec: Reconstruction) -> None:
    """Write `rec`; PtyPy's ``io.h5read`` and its plot client read it.

    Raises
    ------
    FormatError
        When the positions are in pixels, or the file cannot be written.
    """
    pixel = in_metres(path, ".ptyr", rec.pixel_size_m)
    size, geometry = np.array(rec.probe.shape[1:]), geometry_of(rec)
    corner = np.asarray(rec.origin) - np.ceil(size / 2) * pixel
    data: dict[str, Any] = {"shape": size, "energy": None, "distance": None, "psize": None}
    if geometry is not None:
        data |= {"energy": geometry.energy_kev, "distance": geometry.distance_m}
        data["psize"] = np.full(2, geometry.detector_pixel_m)
    content = {
        "probe": {STORAGE: _storage(rec.probe, pixel, -(size // 2) * pixel)},
        "obj": {STORAGE: _storage(rec.object, pixel, corner)},
        "positions": {STORAGE: np.asarray(rec.positions)},
        "pars": {"scans": {"scan": {"data": data}}},
        "runtime": {"engine": rec.engine},
    }
    with new_hdf5(path) as file:
        file.attrs["h5rw_version"] = "0.1"
        put_param(file.create_group("header"), HEADER)
        put_param(file.create_group("content"), content)
        keep_hdf5(path, file, ".ptyr", values_of(rec, HELD))


def _storage(data: npt.NDArray[np.complex64], pixel: float, corner: npt.NDArray[Any]) -> Mapping[str, Any]:
    return {
        "ID": STORAGE,
        "data": data,
        "shape": np.array(data.shape),
        "_psize": np.full(2, pixel),
        "_origin": np.asarray(corner, np.float64),
        "_center": np.asarray(-corner / pixel, np.float64),
        "layermap": np.arange(len(data)),
        "nlayers": len(data),
        "fill_value": 0.0,
        "padding": 0,
    }
