from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho_bluesky.experiment import HC_KEV_M, Geometry, PtychoDataset, Reconstruction

DETECTOR = "entry_1/instrument_1/detector_1/"
SOURCE = "entry_1/instrument_1/source_1/"


@pytest.fixture
def dataset() -> PtychoDataset:
    """A far-field dataset in which every field is set."""
    rng = np.random.default_rng(1)
    geometry = Geometry(energy_kev=9.0, distance_m=2.0, detector_pixel_m=75e-6, beam_center_px=(8.5, 7.25))
    return PtychoDataset(
        frames=rng.poisson(3.0, (70, 16, 16)).astype(np.uint16),
        positions=rng.normal(0, 1e-6, (70, 2)),
        geometry=geometry,
        pixel_size_m=geometry.pixel_size_m(16),
        mask=rng.random((16, 16)) < 0.1,
        probe=(rng.normal(size=(2, 16, 16)) + 1j * rng.normal(size=(2, 16, 16))).astype(np.complex64),
        rotation_deg=12.5,
        timestamps=np.arange(70) + 1.7e9,
        name="measured",
        source={"uid": "abc", "n": 1},
    )


@pytest.fixture
def reconstruction() -> Reconstruction:
    rng = np.random.default_rng(2)
    return Reconstruction(
        object=np.exp(1j * rng.normal(size=(1, 40, 50))).astype(np.complex64),
        probe=rng.normal(size=(2, 16, 16)).astype(np.complex64),
        positions=rng.normal(0, 1e-6, (70, 2)),
        coverage=rng.random((40, 50)).astype(np.float32),
        origin=(-1.5e-6, 2.5e-6),
        pixel_size_m=1.25e-8,
        errors=np.array([0.5, 0.3, 0.2]),
        r_factor=0.19,
        phase_contrast_rad=1.1,
        engine="rpie",
        parameters={"epochs": 3, "alpha": 0.1, "modes": [1, 2]},
        provenance={"raw_uid": "abc", "host": "here"},
    )


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Write a plain NPZ with changes: None removes a key."""

    def write(name: str = "scan.npz", **changes: Any) -> Path:
        values: dict[str, Any] = {
            "frames": np.arange(6 * 16 * 16, dtype=np.uint16).reshape(6, 16, 16),
            "positions": np.stack([np.arange(6.0) * 2, np.arange(6.0)], axis=1),
            "positions_unit": "px",
        }
        values |= changes
        path = tmp_path / name
        with path.open("wb") as file:
            np.savez(file, **{key: value for key, value in values.items() if value is not None})
        return path

    return write


@pytest.fixture
def cxi(tmp_path: Path) -> Callable[..., Path]:
    """Write a CXI file with changes of its datasets: None removes one."""

    def write(name: str = "scan.cxi", **changes: Any) -> Path:
        rng = np.random.default_rng(3)
        values: dict[str, Any] = {
            "cxi_version": 160,
            DETECTOR + "data": rng.poisson(2.0, (8, 16, 16)).astype(np.int32),
            DETECTOR + "distance": 1.5,
            DETECTOR + "x_pixel_size": 55e-6,
            DETECTOR + "y_pixel_size": 55e-6,
            SOURCE + "wavelength": HC_KEV_M / 10.0,
            "entry_1/sample_1/geometry_1/translation": rng.normal(0, 1e-7, (8, 3)),
        }
        values |= changes
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, value in values.items():
                if value is not None:
                    file[key] = value
            file.require_group("entry_1/data_1")["data"] = h5py.SoftLink("/" + DETECTOR + "data")
        return path

    return write
