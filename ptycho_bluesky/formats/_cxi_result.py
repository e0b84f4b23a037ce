"""A result in CXI: the probe as ``image_1``, the object as ``image_2``, in the way of ptychodus.

CXI gives images and positions their places, but says neither where an image lies on the sample nor how the probe
varies; ptychodus keeps these in ``entry_1/ptychodus``, and so does this writer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import HC_KEV_M, PtychoDataset, Reconstruction
from ptycho_bluesky.formats._cxi import DETECTOR, JOULE_PER_KEV, SOURCE, TRANSLATION, energy_kev, number, si, text
from ptycho_bluesky.formats._cxi_write import fill_cxi, in_metres, translations
from ptycho_bluesky.formats._fields import keep_hdf5, kept_hdf5, values_of
from ptycho_bluesky.formats._foreign import (
    FoundResult,
    assemble_result,
    coherent_of,
    geometry_of,
    layers_of,
    variation_of,
)
from ptycho_bluesky.formats._hdf5 import new_hdf5
from ptycho_bluesky.formats._product import center_of, origin_of

__all__ = ["read_cxi_result", "write_cxi_result", "write_cxi_together"]

HELD = {"object", "probe", "positions", "origin", "pixel_size_m", "errors", "opr_modes", "opr_weights"}
MORE = "entry_1/ptychodus/"
RESULT = "result"
"""Part of our own group that belongs to the result, where a measurement is in the same file."""
IMAGES = ("entry_1/image_1/", "entry_1/image_2/")


def write_cxi_result(path: Path, rec: Reconstruction) -> None:
    """Write `rec`.

    Raises
    ------
    FormatError
        When the positions are in pixels, or the file cannot be written.
    """
    pixel = in_metres(path, "CXI", rec.pixel_size_m)
    geometry = geometry_of(rec)
    with new_hdf5(path) as file:
        file["cxi_version"], file["number_of_entries"] = 160, 1
        file["entry_1/title"] = str(rec.provenance.get("dataset", path.stem))
        file[TRANSLATION[1]] = translations(rec.positions)
        file["entry_1/data_1/translation"] = h5py.SoftLink(f"/{TRANSLATION[1]}")
        detector, source = file.create_group(DETECTOR), file.create_group(SOURCE)
        detector["distance"] = 0.0 if geometry is None else geometry.distance_m
        source["energy"] = 0.0 if geometry is None else geometry.energy_kev * JOULE_PER_KEV
        if geometry is not None:
            source["wavelength"] = HC_KEV_M / geometry.energy_kev
            detector["x_pixel_size"] = detector["y_pixel_size"] = geometry.detector_pixel_m
        _fill_images(file, rec, pixel)
        source["illumination"] = h5py.SoftLink(f"/{IMAGES[0]}data")
        keep_hdf5(path, file, "CXI", values_of(rec, HELD))


def write_cxi_together(path: Path, dataset: PtychoDataset, rec: Reconstruction) -> None:
    """Write a measurement as NXcxi_ptycho and its result beside it, as ``image_1`` (probe) and ``image_2`` (object).

    The translations are the measured ones; those that the reconstruction refined stand with what CXI has no place for.

    Raises
    ------
    FormatError
        When positions are in pixels, pixel sizes differ, or the file cannot be written.
    """
    pixel = in_metres(path, "CXI", rec.pixel_size_m)
    measured = in_metres(path, "NXcxi_ptycho", dataset.pixel_size_m)
    if abs(pixel / measured - 1) > 1e-3 or len(rec.positions) != len(dataset):
        raise FormatError(
            f"{path} was not written: the result has {len(rec.positions)} positions and pixels of {pixel:.4g} m, the "
            f"measurement {len(dataset)} frames and {measured:.4g} m; a result stands beside its own measurement alone"
        )
    with new_hdf5(path) as file:
        fill_cxi(path, file, dataset, nexus=True)
        _fill_images(file, rec, pixel)
        for image in IMAGES:
            file[image].attrs["NX_class"] = "NXcollection"
        keep_hdf5(path, file, "CXI", values_of(rec, HELD - {"positions"}), part=RESULT)


def _fill_images(file: h5py.File, rec: Reconstruction, pixel: float) -> None:
    probe, weights = coherent_of(rec)
    row, column = center_of(rec)
    more: dict[str, Any] = {
        "probe_position_indexes": np.arange(len(rec.positions)),
        "probe_photon_count": float((np.abs(rec.probe) ** 2).sum(dtype=np.float64)),
        "object_center_x_m": column,
        "object_center_y_m": row,
        "loss_epochs": np.arange(len(rec.errors)),
        "loss_values": rec.errors,
        "tomography_angle_deg": 0.0,
    }
    more |= {f"{name}_pixel_{side}_m": pixel for name in ("probe", "object") for side in ("width", "height")}
    if weights is not None:
        more["opr_weights"] = weights
    if len(rec.object) > 1:
        more["object_layer_spacing_m"] = layers_of(rec)
    for image, data, axes in zip(IMAGES, (probe, rec.object), ("coherent:incoherent:y:x", "layer:y:x"), strict=True):
        group = file.create_group(image)
        group["data"] = data
        group["data"].attrs["axes"] = axes
        group["data_space"] = "real"
        group["image_size"] = np.array([data.shape[-1] * pixel, data.shape[-2] * pixel, 0.0])
    file["entry_1/process_1/program"] = "ptycho-bluesky"
    for key, value in more.items():
        file[MORE + key] = value


def read_cxi_result(path: Path, file: h5py.File) -> Reconstruction:
    """Read ``image_1`` and ``image_2`` of ``entry_1``."""
    probe, obj = (_image(path, file, key) for key in IMAGES)
    key = next((key for key in TRANSLATION if isinstance(file.get(key), h5py.Dataset)), None)
    if key is None:
        raise FormatError(f"{path} is a CXI result without translations; none of {', '.join(TRANSLATION)} is there")
    translation = si(path, file, key)
    if translation.ndim != 2 or translation.shape[1] < 2:
        raise FormatError(f"{path}: translation has shape {translation.shape}; allowed is (N, 3): x, y, z in metres")
    pixel = _pixel(path, file, obj)
    center = [
        file[MORE + f"object_center_{axis}_m"][()] if MORE + f"object_center_{axis}_m" in file else 0.0 for axis in "yx"
    ]
    weights = file[MORE + "opr_weights"][()] if MORE + "opr_weights" in file else None
    modes, opr_modes, opr_weights = variation_of(path, probe, weights, len(translation))
    losses = file[MORE + "loss_values"][()] if MORE + "loss_values" in file else np.empty(0)
    spacing = file[MORE + "object_layer_spacing_m"][()] if MORE + "object_layer_spacing_m" in file else np.empty(0)
    found = FoundResult(
        layout=text(file, "entry_1/process_1/program").lower() or "cxi",
        object=obj,
        probe=modes,
        positions=translation[:, [1, 0]],
        origin=origin_of((float(center[0]), float(center[1])), pixel, obj.shape, probe.shape),
        pixel_size_m=pixel,
        errors=losses,
        opr_modes=opr_modes,
        opr_weights=opr_weights,
        energy_kev=energy_kev(path, file),
        distance_m=number(path, file, DETECTOR + "distance") or None,
        notes={"slice_distances_m": np.ravel(spacing).tolist()} if np.size(spacing) else {},
    )
    return assemble_result(path, found, kept_hdf5(file, RESULT) or kept_hdf5(file))


def _image(path: Path, file: h5py.File, image: str) -> np.ndarray:
    if not isinstance(file.get(image + "data"), h5py.Dataset):
        raise FormatError(f"{path} is a CXI result without {image}data; image_1 is the probe and image_2 the object")
    return np.asarray(file[image + "data"][()])


def _pixel(path: Path, file: h5py.File, obj: np.ndarray) -> float:
    """Return the side of an object pixel, which ptychodus names and CXI gives by the image's size."""
    keys = [MORE + f"object_pixel_{side}_m" for side in ("height", "width")]
    if all(key in file for key in keys):
        sides = np.array([file[key][()] for key in keys], np.float64)
    elif IMAGES[1] + "image_size" in file:
        sides = np.asarray(file[IMAGES[1] + "image_size"][()], np.float64)[[1, 0]] / obj.shape[-2:]
    else:
        raise FormatError(f"{path}: neither {keys[0]} nor {IMAGES[1]}image_size is there; the pixel size is not known")
    if not (sides > 0).all() or abs(sides[1] / sides[0] - 1) > 1e-3:
        raise FormatError(f"{path}: object pixels are {sides.tolist()} m; allowed are squares, above 0")
    return float(sides[0])
