"""ptychodus' product: a result as HDF5 or NPZ, under the same names.

Positions are the probe's, x and y in metres; the object is placed by its centre, which lies between the middle pixels
of an even array: ``corner = (position - centre) / pixel + (object - probe) / 2``. The probe is (coherent, incoherent,
y, x). Releases up to 2025 spelt the energy ``probe_energy_eV`` and looked for OPR weights among the probe's
attributes; both spellings are written, and either is read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.formats._cxi_write import in_metres
from ptycho_bluesky.formats._fields import keep_hdf5, keep_npz, kept_hdf5, kept_npz, values_of
from ptycho_bluesky.formats._files import replaced_when_whole
from ptycho_bluesky.formats._foreign import (
    FoundResult,
    assemble_result,
    coherent_of,
    geometry_of,
    layers_of,
    photon_energy_kev,
    variation_of,
)
from ptycho_bluesky.formats._hdf5 import new_hdf5

__all__ = ["center_of", "origin_of", "read_product", "read_product_npz", "write_product", "write_product_npz"]

HELD = {"object", "probe", "positions", "origin", "pixel_size_m", "errors", "opr_modes", "opr_weights"}
ARRAYS = (
    "probe",
    "object",
    "probe_position_indexes",
    "probe_position_x_m",
    "probe_position_y_m",
    "opr_weights",
    "object_layer_spacing_m",
    "loss_epochs",
    "loss_values",
)
ON_PROBE = {"probe_pixel_width_m": "pixel_width_m", "probe_pixel_height_m": "pixel_height_m"}
ON_OBJECT = {
    "object_pixel_width_m": "pixel_width_m",
    "object_pixel_height_m": "pixel_height_m",
    "object_center_x_m": "center_x_m",
    "object_center_y_m": "center_y_m",
}


def center_of(rec: Reconstruction) -> tuple[float, float]:
    """Return the position (row, column) of the object array's centre."""
    pixel = rec.pixel_size_m or 1.0
    half = (np.array(rec.object.shape[1:]) - rec.probe.shape[1:]) / 2
    row, column = np.asarray(rec.origin) + pixel * half
    return float(row), float(column)


def origin_of(
    center: tuple[float, float], pixel: float, obj: tuple[int, ...], probe: tuple[int, ...]
) -> tuple[float, float]:
    """Return the position whose patch begins at object pixel (0, 0): the inverse of :func:`center_of`."""
    row, column = (c - pixel * (o - p) / 2 for c, o, p in zip(center, obj[-2:], probe[-2:], strict=True))
    return row, column


def _content(path: Path, rec: Reconstruction) -> dict[str, Any]:
    """Return all keys of a product as NPZ has them."""
    pixel = in_metres(path, "a ptychodus product", rec.pixel_size_m)
    geometry, (probe, weights) = geometry_of(rec), coherent_of(rec)
    row, column = center_of(rec)
    content: dict[str, Any] = {
        "name": str(rec.provenance.get("dataset", path.stem)),
        "comments": f"{rec.engine}, ptycho-bluesky",
        "detector_object_distance_m": 0.0 if geometry is None else geometry.distance_m,
        "photon_energy_eV": 0.0 if geometry is None else geometry.energy_kev * 1e3,
        "probe_photon_count": float((np.abs(rec.probe) ** 2).sum(dtype=np.float64)),
        "exposure_time_s": 0.0,
        "mass_attenuation_m2_per_kg": 0.0,
        "tomography_angle_deg": 0.0,
        "tilt_angle_deg": 0.0,
        "focus_object_distance_m": 0.0 if geometry is None else geometry.focus_to_sample_m or 0.0,
        "far_field": rec.modality == "far-field",
        "probe": probe,
        "object": rec.object,
        "probe_position_indexes": np.arange(len(rec.positions)),
        "probe_position_x_m": np.ascontiguousarray(rec.positions[:, 1]),
        "probe_position_y_m": np.ascontiguousarray(rec.positions[:, 0]),
        "object_layer_spacing_m": layers_of(rec),
        "loss_epochs": np.arange(len(rec.errors)),
        "loss_values": rec.errors,
        "object_center_x_m": column,
        "object_center_y_m": row,
    }
    content["probe_energy_eV"] = content["photon_energy_eV"]
    content["mass_attenuation_m2_kg"] = 0.0
    content |= dict.fromkeys((*ON_PROBE, *list(ON_OBJECT)[:2]), pixel)
    return content if weights is None else content | {"opr_weights": weights}


def write_product(path: Path, rec: Reconstruction) -> None:
    """Write `rec` as an HDF5 product.

    Raises
    ------
    FormatError
        When the positions are in pixels, or the file cannot be written.
    """
    content = _content(path, rec)
    with new_hdf5(path) as file:
        for key in ARRAYS:
            if key in content:
                file[key] = content[key]
        for key, value in content.items():
            if key in ON_PROBE:
                file["probe"].attrs[ON_PROBE[key]] = value
            elif key in ON_OBJECT:
                file["object"].attrs[ON_OBJECT[key]] = value
            elif key not in ARRAYS:
                file.attrs[key] = value
        if "opr_weights" in content:
            file["probe"].attrs["opr_weights"] = content["opr_weights"]
        keep_hdf5(path, file, "a ptychodus product", values_of(rec, HELD))


def write_product_npz(path: Path, rec: Reconstruction) -> None:
    """Write `rec` as an NPZ product.

    Raises
    ------
    FormatError
        When the positions are in pixels, or the file cannot be written.
    """
    content = _content(path, rec) | keep_npz(path, "a ptychodus product", values_of(rec, HELD))
    with replaced_when_whole(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **content)


def read_product(path: Path, file: h5py.File) -> Reconstruction:
    """Read an HDF5 product."""

    def get(key: str) -> Any:
        if key in ON_PROBE:
            return file["probe"].attrs.get(ON_PROBE[key])
        if key in ON_OBJECT:
            return file["object"].attrs.get(ON_OBJECT[key])
        if key in file:
            return file[key][()]
        older = file["probe"].attrs.get("opr_weights") if key == "opr_weights" else None
        return file.attrs.get(key, older)

    return assemble_result(path, _found(path, get), kept_hdf5(file))


def read_product_npz(path: Path) -> Reconstruction:
    """Read an NPZ product."""
    with np.load(path, allow_pickle=False) as arrays:
        found = _found(path, lambda key: arrays[key] if key in arrays.files else None)
        return assemble_result(path, found, kept_npz(arrays))


def _found(path: Path, get: Callable[[str], Any]) -> FoundResult:
    def needed(key: str) -> Any:
        if (found := get(key)) is None:
            raise FormatError(f"{path}: the ptychodus product lacks {key}; have it written again")
        return found

    probe, obj = np.asarray(needed("probe")), np.asarray(needed("object"))
    sides = [float(needed(f"object_pixel_{side}_m")) for side in ("height", "width")]
    if not sides[0] > 0 or abs(sides[1] / sides[0] - 1) > 1e-3:
        raise FormatError(f"{path}: object pixels are {sides} m (height, width); allowed are squares, above 0")
    x, y = (np.asarray(needed(f"probe_position_{axis}_m"), np.float64).ravel() for axis in "xy")
    if len(x) != len(y):
        raise FormatError(f"{path}: there are {len(x)} x but {len(y)} y positions; they must agree")
    center = float(needed("object_center_y_m")), float(needed("object_center_x_m"))
    weights = get("opr_weights")
    modes, opr_modes, opr_weights = variation_of(path, probe, None if weights is None else np.asarray(weights), len(x))
    energy = get("photon_energy_eV") if get("photon_energy_eV") is not None else needed("probe_energy_eV")
    losses = get("loss_values") if get("loss_values") is not None else get("costs")
    far = get("far_field")
    spacing = np.asarray(get("object_layer_spacing_m") if get("object_layer_spacing_m") is not None else [], np.float64)
    angle = float(get("tomography_angle_deg") or 0.0)
    notes: dict[str, Any] = {"slice_distances_m": spacing.tolist()} if spacing.size else {}
    return FoundResult(
        layout="ptychodus",
        object=obj,
        probe=modes,
        positions=np.stack([y, x], axis=1),
        origin=origin_of(center, sides[0], obj.shape, probe.shape),
        pixel_size_m=sides[0],
        errors=np.empty(0) if losses is None else np.asarray(losses, np.float64),
        opr_modes=opr_modes,
        opr_weights=opr_weights,
        energy_kev=photon_energy_kev(path, float(energy)),
        distance_m=_positive(get("detector_object_distance_m")),
        focus_to_sample_m=_positive(get("focus_object_distance_m")),
        modality="far-field" if far is None or bool(far) else "near-field",
        notes=notes | ({"rotation_deg": angle} if angle else {}),
    )


def _positive(value: Any) -> float | None:
    """Return a distance; None where it is 0 or missing, as ptychodus writes what it does not know."""
    return float(value) if value is not None and float(value) > 0 else None
