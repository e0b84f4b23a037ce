"""Write the golden files with the peers' own writers, or by hand where a peer cannot be installed.

The files of this folder were made by ``python tests/golden/make.py`` with these packages at hand:

* cdtools-py 0.3.2 (torch 2.13.0): ``cdtools.cxi``, by ``Ptycho2DDataset.to_cxi``;
* ptychodus 1.7.0 (without its optional parts): ``ptychodus_product.h5``, ``ptychodus_product.npz``,
  ``ptychodus_result.cxi`` and ``ptychodus_data.cxi``, by its file plugins.

By hand, after their sources, for these are not in package indexes: PtyPy 0.9's ``ptypy.ptyd`` (two chunks, weights of
each frame) and ``ptypy.ptyr``; the HDF5 product of ptychodus in 2025, ``ptychodus_2025.h5``, with OPR weights where its
reader looks; the ``.mat`` of fold_slice for MATLAB 5 (``fold_slice_v5.mat``, by scipy) and 7.3
(``fold_slice_v73.mat``).

Everything follows from ``tests/golden/truth.py``, so that a test knows what must be read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat

sys.path.insert(0, str(Path(__file__).parent))
import truth

HERE = Path(__file__).parent


def cdtools() -> None:
    import torch
    from cdtools.datasets import Ptycho2DDataset

    pixel = truth.DETECTOR_PIXEL
    basis = np.array([[0, -pixel], [-pixel, 0], [0, 0]])
    way = np.column_stack([-truth.POSITIONS[:, 1], -truth.POSITIONS[:, 0], np.zeros(truth.COUNT)])
    Ptycho2DDataset(
        torch.as_tensor(way, dtype=torch.float64),  # the probe's way in the laboratory; the file holds its negative
        torch.as_tensor(truth.FRAMES.astype(np.int32)),
        wavelength=truth.WAVELENGTH,
        detector_geometry={"distance": truth.DISTANCE, "basis": basis, "corner": None},
        mask=torch.as_tensor(~truth.MASK),
        entry_info={"title": "golden"},
    ).to_cxi(str(HERE / "cdtools.cxi"))


def ptychodus() -> None:
    from ptychodus.api.diffraction import (
        DiffractionDatasetLayoutNode,
        DiffractionMetadata,
        SimpleDiffractionArray,
        SimpleDiffractionDataset,
    )
    from ptychodus.api.geometry import ImageExtent, PixelGeometry
    from ptychodus.api.object import Object, ObjectCenter
    from ptychodus.api.probe import ProbeSequence
    from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
    from ptychodus.api.product import LossValue, Product, ProductMetadata
    from ptychodus.plugins.cxi_file import CXIDiffractionFileWriter, CXIProductFileIO
    from ptychodus.plugins.h5_product_file import H5ProductFileIO
    from ptychodus.plugins.npz_product_file import NPZProductFileIO

    square = PixelGeometry(width_m=truth.PIXEL, height_m=truth.PIXEL)
    product = Product(
        metadata=ProductMetadata(
            name="golden",
            comments="",
            detector_distance_m=truth.DISTANCE,
            photon_energy_eV=truth.ENERGY_KEV * 1e3,
            probe_photon_count=1e5,
            exposure_time_s=0.1,
            mass_attenuation_m2_per_kg=0.0,
            tomography_angle_deg=30.0,
        ),
        probe_positions=ProbePositionSequence(
            [ProbePosition(i, x_m=x, y_m=y) for i, (y, x) in enumerate(truth.POSITIONS)]
        ),
        probes=ProbeSequence(truth.COHERENT, truth.WEIGHTS, square),
        object_=Object(truth.OBJECT, square, ObjectCenter(x_m=truth.CENTER[1], y_m=truth.CENTER[0])),
        losses=[LossValue(i, v) for i, v in enumerate(truth.LOSSES)],
    )
    H5ProductFileIO().write(HERE / "ptychodus_product.h5", product)
    NPZProductFileIO().write(HERE / "ptychodus_product.npz", product)
    CXIProductFileIO().write(HERE / "ptychodus_result.cxi", product)
    metadata = DiffractionMetadata(
        num_patterns_per_array=[truth.COUNT],
        pattern_dtype=truth.FRAMES.dtype,
        detector_distance_m=truth.DISTANCE,
        detector_extent=ImageExtent(truth.SIZE, truth.SIZE),
        detector_pixel_geometry=PixelGeometry(truth.DETECTOR_PIXEL, truth.DETECTOR_PIXEL),
        photon_energy_eV=truth.ENERGY_KEV * 1e3,
    )
    array = SimpleDiffractionArray("golden", np.arange(truth.COUNT), truth.FRAMES)
    layout = DiffractionDatasetLayoutNode.create_root()
    CXIDiffractionFileWriter().write(
        HERE / "ptychodus_data.cxi", SimpleDiffractionDataset(metadata, layout, [array], truth.MASK)
    )


def _put(group: h5py.Group, values: dict[str, object]) -> None:
    """Store a dictionary in the way of PtyPy's h5rw: each item with its type."""
    group.attrs["type"] = "dict"
    for key, value in values.items():
        if isinstance(value, dict):
            _put(group.create_group(key), value)
        elif isinstance(value, str):
            group.create_dataset(key, data=value, dtype=h5py.string_dtype()).attrs["type"] = "string"
        elif value is None:
            group.create_dataset(key, data=np.zeros(1)).attrs["type"] = "None"
        elif isinstance(value, np.ndarray):
            group.create_dataset(key, data=value, compression="gzip").attrs["type"] = "array"
        else:
            group.create_dataset(key, data=value).attrs["type"] = "scalar"


def ptypy() -> None:
    good = np.broadcast_to(~truth.MASK, truth.FRAMES.shape)
    halves = {"0": slice(0, 4), "1": slice(4, 6)}
    meta = {
        "version": "0.1",
        "num_frames": truth.COUNT,
        "label": None,
        "shape": np.array([truth.SIZE, truth.SIZE]),
        "psize": np.full(2, truth.DETECTOR_PIXEL),
        "energy": truth.ENERGY_KEV,
        "center": np.full(2, truth.SIZE / 2),
        "distance": truth.DISTANCE,
    }
    chunks = {
        name: {
            "indices": np.arange(truth.COUNT)[chosen],
            "data": truth.FRAMES[chosen],
            "positions": truth.POSITIONS[chosen],
            "weights": good[chosen].astype(np.uint8),
        }
        for name, chosen in halves.items()
    }
    with h5py.File(HERE / "ptypy.ptyd", "w", libver="v108") as file:
        for name, values in (("meta", meta), ("info", {"num_frames": truth.COUNT}), ("chunks", chunks)):
            _put(file.create_group(name), values)

    def storage(data: np.ndarray, corner: np.ndarray) -> dict[str, object]:
        return {"data": data, "_psize": np.full(2, truth.PIXEL), "_origin": corner, "_center": -corner / truth.PIXEL}

    # A view is placed by its middle; its first row is half the frame above it.
    corner = truth.ORIGIN - truth.SIZE / 2 * truth.PIXEL
    history = {f"{i:05d}": {"iterations": i, "error": np.array([v, 0.0, 0.0])} for i, v in enumerate(truth.LOSSES)}
    content = {
        "obj": {"SscanG00": storage(truth.OBJECT, corner)},
        "probe": {"SscanG00": storage(truth.COHERENT[0], np.full(2, -truth.SIZE / 2 * truth.PIXEL))},
        "positions": {"SscanG00": truth.POSITIONS},
        "pars": {"scans": {"scan": {"data": {"energy": truth.ENERGY_KEV, "distance": truth.DISTANCE}}}},
        "runtime": {"iter_info": history},
    }
    with h5py.File(HERE / "ptypy.ptyr", "w", libver="v108") as file:
        _put(file.create_group("header"), {"kind": "minimal", "description": "Ptypy .h5 compatible storage format"})
        _put(file.create_group("content"), content)


def ptychodus_2025() -> None:
    side = {"pixel_width_m": truth.PIXEL, "pixel_height_m": truth.PIXEL}
    with h5py.File(HERE / "ptychodus_2025.h5", "w", libver="v108") as file:
        file.attrs.update({"name": "golden", "comments": "", "detector_object_distance_m": truth.DISTANCE})
        file.attrs.update({"probe_energy_eV": truth.ENERGY_KEV * 1e3, "exposure_time_s": 0.1})
        file["probe"], file["object"] = truth.COHERENT, truth.OBJECT
        file["probe"].attrs.update(side | {"opr_weights": truth.WEIGHTS})
        file["object"].attrs.update(side | {"center_x_m": truth.CENTER[1], "center_y_m": truth.CENTER[0]})
        file["probe_position_indexes"] = np.arange(truth.COUNT)
        file["probe_position_x_m"], file["probe_position_y_m"] = truth.POSITIONS[:, 1], truth.POSITIONS[:, 0]
        file["object_layer_spacing_m"] = np.empty(0)
        file["costs"] = truth.LOSSES


def fold_slice() -> None:
    pixels = truth.CORNERS - np.ceil((np.array(truth.OBJECT.shape[1:]) - truth.SIZE) / 2)
    probe = truth.COHERENT.transpose(2, 3, 1, 0)
    p = {"lambda": truth.WAVELENGTH, "dx_spec": np.full(2, truth.PIXEL), "z": truth.DISTANCE, "angle": 30.0}
    outputs = {
        "probe_positions": np.ascontiguousarray(pixels[:, ::-1]),
        "fourier_error_out": truth.LOSSES[:, None],
        "probe_evolution": truth.WEIGHTS,
    }
    savemat(
        HERE / "fold_slice_v5.mat",
        {"object": truth.OBJECT[0], "probe": probe, "p": p, "outputs": outputs},
        do_compression=True,
    )
    pair = np.dtype([("real", np.float32), ("imag", np.float32)])
    with h5py.File(HERE / "fold_slice_v73.mat", "w", userblock_size=512, libver="v108") as file:
        for key, value in (("object", truth.OBJECT[0]), ("probe", probe)):
            file[key] = np.ascontiguousarray(value.T).view(pair)
        for name, group in (("p", p), ("outputs", outputs)):
            for key, value in group.items():
                file[f"{name}/{key}"] = np.atleast_2d(value).T
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 ."
    with (HERE / "fold_slice_v73.mat").open("r+b") as raw:
        raw.write(head.ljust(116) + bytes(8) + b"\x00\x02IM")


if __name__ == "__main__":
    for make in (ptypy, ptychodus_2025, fold_slice, ptychodus, cdtools):
        make()
