"""A measurement and its result in one file, read apart again, by this program and by plain HDF5."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction
from ptycho_bluesky.formats import identify, load_dataset, read_reconstruction, save_together


def pair(rng: np.random.Generator) -> tuple[PtychoDataset, Reconstruction]:
    geometry = Geometry(energy_kev=8.0, distance_m=1.0, detector_pixel_m=75e-6)
    pixel = geometry.pixel_size_m(8)
    positions = rng.uniform(0, 6 * pixel, (5, 2))
    dataset = PtychoDataset(
        frames=rng.poisson(3, (5, 8, 8)).astype(np.uint16),
        positions=positions,
        geometry=geometry,
        pixel_size_m=pixel,
        probe=np.ones((1, 8, 8), np.complex64),
        name="scan 7",
    )
    result = Reconstruction(
        object=np.exp(1j * rng.normal(size=(1, 16, 16))).astype(np.complex64),
        probe=(rng.normal(size=(2, 8, 8)) + 1j).astype(np.complex64),
        positions=positions + 0.3 * pixel,
        coverage=np.ones((16, 16), np.float32),
        origin=(-pixel, 2 * pixel),
        pixel_size_m=pixel,
        errors=np.array([0.4, 0.2]),
        r_factor=0.2,
        phase_contrast_rad=1.0,
        engine="auto",
        modality="far-field",
        parameters={"modes": 2},
        provenance={"raw_uid": "abc"},
    )
    return dataset, result


def test_both_come_back(tmp_path: Path) -> None:
    dataset, result = pair(np.random.default_rng(0))
    save_together(tmp_path / "both.cxi", dataset, result)
    kind = identify(tmp_path / "both.cxi")
    assert kind.measurement and kind.result
    measured = load_dataset(tmp_path / "both.cxi")
    np.testing.assert_array_equal(measured.frames[:], dataset.frames)
    np.testing.assert_allclose(measured.positions, dataset.positions, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(measured.probe, dataset.probe)
    assert measured.name == "scan 7"
    read = read_reconstruction(tmp_path / "both.cxi")
    for field in fields(Reconstruction):
        given, found = getattr(result, field.name), getattr(read, field.name)
        if isinstance(given, np.ndarray):
            np.testing.assert_allclose(found, given, rtol=1e-12, atol=1e-15, err_msg=field.name)
        elif field.name != "origin":
            assert found == given, field.name
    np.testing.assert_allclose(read.origin, result.origin, atol=1e-15)


def test_the_places_are_those_of_cxi(tmp_path: Path) -> None:
    dataset, result = pair(np.random.default_rng(1))
    save_together(tmp_path / "both.cxi", dataset, result)
    with h5py.File(tmp_path / "both.cxi") as file:
        assert file["entry_1/data_1/data"].shape == (5, 8, 8)
        np.testing.assert_allclose(file["entry_1/data_1/translation"][:, 1], dataset.positions[:, 0])
        assert file["entry_1/image_1/data"].shape == (1, 2, 8, 8) and file["entry_1/image_2/data"].shape == (1, 16, 16)
        assert file["entry_1"].attrs["NX_class"] == "NXentry"


@pytest.mark.parametrize("what", ["frames", "pixel"])
def test_a_result_of_another_measurement_is_refused(tmp_path: Path, what: str) -> None:
    dataset, result = pair(np.random.default_rng(2))
    other = replace(result, positions=result.positions[:4]) if what == "frames" else replace(result, pixel_size_m=1e-9)
    with pytest.raises(FormatError, match="a result stands beside its own measurement alone"):
        save_together(tmp_path / "both.cxi", dataset, other)
    assert not (tmp_path / "both.cxi").exists()
