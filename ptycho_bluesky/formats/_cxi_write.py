"""A measurement as CXI 1.6, or as NXcxi_ptycho, which is CXI with NeXus classes.

Rows run along -y and columns along -x, as cdtools and most beamlines have it; the stored translation is the sample's,
whose negative, seen along these axes, is the probe's way over the sample: ``(x, y, z) = (column, row, 0)``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import HC_KEV_M, Geometry, PtychoDataset
from ptycho_bluesky.formats._cxi import BEAM, DETECTOR, JOULE_PER_KEV, SOURCE
from ptycho_bluesky.formats._fields import keep_hdf5
from ptycho_bluesky.formats._hdf5 import new_hdf5, write_frames

__all__ = ["fill_cxi", "geometry_kept", "in_metres", "translations", "write_cxi"]

SAMPLE = "entry_1/sample_1/"
CLASSES = {
    "entry_1": "NXentry",
    "entry_1/instrument_1": "NXinstrument",
    "entry_1/instrument_1/detector_1": "NXdetector",
    "entry_1/instrument_1/beam_1": "NXbeam",
    "entry_1/instrument_1/source_1": "NXsource",
    "entry_1/data_1": "NXcollection",
    "entry_1/sample_1": "NXsample",
    "entry_1/sample_1/geometry_1": "NXcollection",
    "entry_1/sample_1/transformations": "NXtransformations",
    "entry_1/data": "NXdata",
}


def in_metres(path: Path, layout: str, pixel_size_m: float | None) -> float:
    """Return the object's pixel size.

    Raises
    ------
    FormatError
        When only pixel units are known, which `layout` cannot hold.
    """
    if pixel_size_m is None:
        raise FormatError(
            f"{path} was not written: {layout} holds positions in metres, but these are in object pixels; give "
            "energy_kev, distance_m and detector_pixel_m when the measurement is loaded, or choose the house's own "
            "format (NPZ for a measurement, HDF5 for a result)"
        )
    return pixel_size_m


def geometry_kept(dataset: PtychoDataset, *more: str) -> dict[str, Any]:
    """Return what a layout with energy, distance and detector pixel cannot hold, and the fields named by `more`."""
    geometry = dataset.geometry
    kept: dict[str, Any] = {key: getattr(dataset, key) for key in ("timestamps", *more)}
    kept["rotation_deg"] = dataset.rotation_deg or None
    kept["modality"] = None if dataset.modality == "far-field" else dataset.modality
    kept["source"] = dataset.source or None
    if geometry is not None:
        kept["focus_to_sample_m"] = geometry.focus_to_sample_m
        kept["beam_center_px"] = geometry.beam_center_px
    pixel = dataset.pixel_size_m
    computed = None if geometry is None else geometry.pixel_size_m(dataset.frame_shape[0])
    if pixel is not None and (computed is None or abs(pixel / computed - 1) > 1e-12):
        kept["pixel_size_m"] = pixel
    return {key: value for key, value in kept.items() if value is not None}


def translations(positions: np.ndarray) -> np.ndarray:
    """Return (N, 3) sample translations x, y, z in metres for positions (row, column)."""
    return np.column_stack([positions[:, 1], positions[:, 0], np.zeros(len(positions))])


def write_cxi(path: Path, dataset: PtychoDataset, nexus: bool) -> None:
    """Write `dataset`; `nexus` makes it NXcxi_ptycho.

    Raises
    ------
    FormatError
        When the positions are in pixels, or the file cannot be written.
    """
    in_metres(path, _name(nexus), dataset.pixel_size_m)
    with new_hdf5(path) as file:
        fill_cxi(path, file, dataset, nexus)


def _name(nexus: bool) -> str:
    return "NXcxi_ptycho" if nexus else "CXI"


def fill_cxi(path: Path, file: h5py.File, dataset: PtychoDataset, nexus: bool) -> None:
    """Put `dataset` into an empty file."""
    file["cxi_version"], file["number_of_entries"] = 160, 1
    file["entry_1/title"] = dataset.name
    write_frames(file.create_group(DETECTOR), "data", dataset)
    file[SAMPLE + "geometry_1/translation"] = translations(dataset.positions)
    for group in ("entry_1/data_1", "entry_1/instrument_1/detector_1"):
        file.require_group(group)["translation"] = h5py.SoftLink(f"/{SAMPLE}geometry_1/translation")
    file["entry_1/data_1/data"] = h5py.SoftLink(f"/{DETECTOR}data")
    if dataset.mask is not None:
        file[DETECTOR + "mask"] = dataset.mask.astype(np.uint32)
    if dataset.probe is not None:
        file[SOURCE + "illumination"] = dataset.probe
    if dataset.geometry is not None:
        _geometry(file, dataset.geometry, nexus)
    kept = geometry_kept(dataset)
    if nexus:
        if dataset.geometry is not None and dataset.geometry.beam_center_px is not None:
            del kept["beam_center_px"]
        _nexus(file, dataset)
    keep_hdf5(path, file, _name(nexus), kept)


def _geometry(file: h5py.File, geometry: Geometry, nexus: bool) -> None:
    pixel = geometry.detector_pixel_m
    file[DETECTOR + "distance"] = geometry.distance_m
    file[DETECTOR + "x_pixel_size"] = file[DETECTOR + "y_pixel_size"] = pixel
    file[DETECTOR + "basis_vectors"] = np.array([[0.0, -pixel], [-pixel, 0.0], [0.0, 0.0]])
    # In NXcxi_ptycho the source's energy is the storage ring's, not known here; the wavelength leaves no doubt.
    file[SOURCE + "wavelength"] = HC_KEV_M / geometry.energy_kev
    if not nexus:
        file[SOURCE + "energy"] = geometry.energy_kev * JOULE_PER_KEV
        return
    for key in ("energy", "incident_beam_energy"):
        file[BEAM + key] = geometry.energy_kev
        file[BEAM + key].attrs["units"] = "keV"
    file[BEAM + "incident_wavelength"] = HC_KEV_M / geometry.energy_kev
    lengths = (SOURCE + "wavelength", BEAM + "incident_wavelength")
    for key in (*lengths, *(DETECTOR + name for name in ("distance", "x_pixel_size", "y_pixel_size"))):
        file[key].attrs["units"] = "m"


def _nexus(file: h5py.File, dataset: PtychoDataset) -> None:
    """Add NeXus classes, what NXcxi_ptycho asks for beyond CXI and is known, and a plot for viewers."""
    file["entry_1/definition"] = "NXptycho"
    for axis, column in (("x", 1), ("y", 0)):
        motor = file.create_dataset(SAMPLE + f"transformations/{axis}", data=dataset.positions[:, column])
        motor.attrs.update({"units": "m", "transformation_type": "translation"})
        motor.attrs.update({"vector": np.eye(3)[1 - column], "depends_on": "." if axis == "y" else "y"})
        file[f"entry_1/data/{axis}"] = h5py.SoftLink(motor.name)
    file["entry_1/data/data"] = h5py.SoftLink(f"/{DETECTOR}data")
    file["entry_1/data"].attrs.update({"signal": "data", "axes": ["x", ".", "."], "x_indices": 0, "y_indices": 0})
    file[DETECTOR + "data_1"] = h5py.SoftLink(f"/{DETECTOR}data")
    file[DETECTOR].attrs.update({"signal": "data", "axes": [".", ".", "data"]})
    file[SAMPLE + "geometry_1/translation"].attrs.update(
        {"units": "m", "axes": "translation:y:x", "interpretation": "image"}
    )
    center = None if dataset.geometry is None else dataset.geometry.beam_center_px
    if center is not None:
        for axis, value in zip("yx", center, strict=True):
            file[DETECTOR + f"beam_center_{axis}"] = value
            file[DETECTOR + f"beam_center_{axis}"].attrs["units"] = "pixel"
    file.attrs.update({"NX_class": "NXroot", "default": "entry_1"})
    file["entry_1"].attrs["default"] = "data"
    for name, kind in CLASSES.items():
        if name in file:
            file[name].attrs["NX_class"] = kind
