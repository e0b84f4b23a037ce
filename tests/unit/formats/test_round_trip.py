"""What is written and read again is the same, in every format and for whatever may be in it."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction
from ptycho_bluesky.formats import (
    DatasetFormat,
    ResultFormat,
    load_dataset,
    read_reconstruction,
    save_dataset,
    write_reconstruction,
)

DATASETS: tuple[DatasetFormat, ...] = get_args(DatasetFormat)
RESULTS: tuple[ResultFormat, ...] = get_args(ResultFormat)
quick = settings(
    max_examples=10,
    deadline=None,
    # no shrinking: what fails is a field of one record, and the record is printed
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text("abcµ ", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=5,
)
documents = st.dictionaries(st.text("abc", min_size=1, max_size=3), json, min_size=1, max_size=3)
names = st.text("scan_07 µ", min_size=1, max_size=9)


generators = st.integers(0, 2**31).map(np.random.default_rng)
"""Arrays come from these: hypothesis takes long over thousands of numbers, and shrinks what is around them."""


def waves(rng: np.random.Generator, *shape: int) -> Any:
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    near = draw(st.booleans())
    return Geometry(
        energy_kev=draw(st.floats(0.2, 30)),
        distance_m=draw(st.floats(0.1, 10)),
        detector_pixel_m=draw(st.floats(5e-6, 2e-4)),
        modality="near-field" if near else "far-field",
        focus_to_sample_m=draw(st.none() | st.floats(1e-3, 1)) if near else None,
        beam_center_px=draw(st.none() | st.tuples(st.floats(2, 6), st.floats(2, 6))),
    )


@st.composite
def datasets(draw: st.DrawFn) -> PtychoDataset:
    rng, count, size, geometry = draw(generators), draw(st.integers(1, 70)), draw(st.integers(8, 9)), draw(geometries())
    pixel = geometry.pixel_size_m(size)
    return PtychoDataset(
        frames=rng.poisson(5, (count, size, size)).astype(draw(st.sampled_from([np.uint16, np.int32, np.float32]))),
        positions=rng.uniform(-5, 5, (count, 2)) * pixel,
        geometry=geometry,
        modality=geometry.modality,
        pixel_size_m=draw(st.sampled_from([pixel, pixel * 1.01])),
        mask=draw(st.none() | st.just(np.eye(size, dtype=bool)) | st.just(np.zeros((size, size), bool))),
        probe=draw(st.none() | st.just(waves(rng, 2, size, size))),
        rotation_deg=draw(st.floats(-180, 180)),
        timestamps=draw(st.none() | st.just(rng.uniform(0, 2e9, count))),
        name=draw(names),
        source=draw(documents),
    )


@st.composite
def results(draw: st.DrawFn) -> Reconstruction:
    rng = draw(generators)
    count, size, slices, rank = (draw(st.integers(low, high)) for low, high in ((1, 4), (8, 9), (1, 2), (0, 2)))
    shape, pixel = (draw(st.integers(12, 15)), draw(st.integers(12, 15))), draw(st.floats(1e-10, 1e-6))
    geometry = draw(st.none() | geometries())
    known = {} if geometry is None else {"geometry": geometry.model_dump(mode="json")}
    return Reconstruction(
        object=waves(rng, slices, *shape),
        probe=waves(rng, 2, size, size),
        positions=rng.uniform(-5, 5, (count, 2)) * pixel,
        coverage=rng.random(shape).astype(np.float32),
        origin=(draw(st.floats(-9, 9)) * pixel, draw(st.floats(-9, 9)) * pixel),
        pixel_size_m=pixel,
        errors=rng.random(draw(st.integers(0, 3))),
        r_factor=draw(st.floats(0, 1)),
        phase_contrast_rad=draw(st.floats(0, 7)),
        engine=draw(names),
        modality="far-field" if geometry is None else geometry.modality,
        parameters=draw(documents),
        provenance=draw(documents) | known,
        opr_modes=waves(rng, rank, size, size) if rank else None,
        opr_weights=rng.normal(size=(count, rank)).astype(np.float32) if rank else None,
        background=draw(st.none() | st.just(rng.random((size, size)).astype(np.float32))),
        uncertainty=draw(st.none() | st.just(np.where(rng.random(shape) < 0.5, np.nan, 1.0).astype(np.float32))),
    )


def assert_same(found: Any, given: Any, pixel: float) -> None:
    """Assert that two records are the same, but for the rounding of units and of lengths well below a pixel."""
    for field in fields(given):
        a, b = getattr(found, field.name), getattr(given, field.name)
        if field.name in ("positions", "origin"):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-9 * pixel, err_msg=field.name)
        elif isinstance(b, Geometry):
            for key, value in b.model_dump().items():
                exact = value is None or isinstance(value, str)
                assert getattr(a, key) == (value if exact else pytest.approx(value, rel=1e-12, abs=0)), key
        elif isinstance(b, np.ndarray) or field.name == "frames":
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(np.asarray(a), b, err_msg=field.name)
        elif isinstance(b, float):
            assert a == pytest.approx(b, rel=1e-12, abs=0), field.name
        else:
            assert a == b, field.name


@pytest.mark.parametrize("format", DATASETS)
@given(dataset=datasets())
@quick
def test_measurements(tmp_path: Path, format: DatasetFormat, dataset: PtychoDataset) -> None:
    save_dataset(tmp_path / "a", dataset, format)
    found = load_dataset(tmp_path / "a")
    assert_same(found, dataset, dataset.pixel_size_m or 1.0)


@pytest.mark.parametrize("format", RESULTS)
@given(result=results())
@quick
def test_results(tmp_path: Path, format: ResultFormat, result: Reconstruction) -> None:
    write_reconstruction(tmp_path / "a", result, format)
    assert_same(read_reconstruction(tmp_path / "a"), result, result.pixel_size_m or 1.0)


@pytest.mark.parametrize("format", RESULTS[1:])
def test_a_patch_stays_where_it_is(tmp_path: Path, reconstruction: Reconstruction, format: ResultFormat) -> None:
    """Also where another program has thrown away what this package keeps beside the layout."""
    corners = np.array([[0, 0], [24, 34], [7, 19]])
    pixel = reconstruction.pixel_size_m or 1.0
    given = replace(reconstruction, positions=np.asarray(reconstruction.origin) + corners * pixel)
    write_reconstruction(tmp_path / "a", given, format)
    _forget_what_was_kept(tmp_path / "a")
    found = read_reconstruction(tmp_path / "a")
    assert found.pixel_size_m == pytest.approx(pixel)
    places = np.rint((found.positions - np.asarray(found.origin)) / pixel).astype(int)
    for (y, x), (row, column) in zip(places, corners, strict=True):
        patch = found.object[0, y : y + 16, x : x + 16]
        np.testing.assert_array_equal(patch, given.object[0, row : row + 16, column : column + 16])


def _forget_what_was_kept(path: Path) -> None:
    import h5py

    if h5py.is_hdf5(path):
        with h5py.File(path, "r+") as file:
            del file["ptycho_bluesky"]
        return
    with np.load(path) as arrays:
        rest = {key: arrays[key] for key in arrays.files if not key.startswith("ptycho_bluesky")}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **rest)


@pytest.mark.parametrize("format", DATASETS[1:])
def test_what_a_layout_has_no_place_for_is_named(
    tmp_path: Path, dataset: PtychoDataset, format: DatasetFormat, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        save_dataset(tmp_path / "a", dataset, format)
    assert len(caplog.records) == 1
    assert "no place for" in caplog.text
    assert all(name in caplog.text for name in ("rotation_deg", "source", "timestamps"))


def test_weights_too_many_for_a_plain_attribute(tmp_path: Path, reconstruction: Reconstruction) -> None:
    rng = np.random.default_rng(0)
    given = replace(
        reconstruction,
        positions=np.resize(reconstruction.positions, (5000, 2)),
        opr_modes=np.ones((3, 16, 16), np.complex64),
        opr_weights=rng.normal(size=(5000, 3)).astype(np.float32),
    )
    write_reconstruction(tmp_path / "a.h5", given, "product")
    assert_same(read_reconstruction(tmp_path / "a.h5"), given, 1e-8)


@pytest.mark.parametrize(
    ("name", "format"), [("a.npz", "npz"), ("a.CXI", "cxi"), ("a.nxs", "nxcxi"), ("a.ptyd", "ptyd"), ("a", "npz")]
)
def test_the_suffix_chooses(tmp_path: Path, dataset: PtychoDataset, name: str, format: DatasetFormat) -> None:
    save_dataset(tmp_path / name, dataset)
    save_dataset(tmp_path / "b", dataset, format)
    assert abs((tmp_path / name).stat().st_size - (tmp_path / "b").stat().st_size) < 100


@pytest.mark.parametrize("format", DATASETS[1:])
def test_pixels_are_not_written_as_metres(tmp_path: Path, dataset: PtychoDataset, format: DatasetFormat) -> None:
    bare = replace(dataset, geometry=None, pixel_size_m=None)
    with pytest.raises(FormatError, match=r"holds positions in metres.*object pixels.*give energy_kev"):
        save_dataset(tmp_path / "a", bare, format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", RESULTS[1:])
def test_a_result_in_pixels_is_not_written_as_metres(
    tmp_path: Path, reconstruction: Reconstruction, format: ResultFormat
) -> None:
    with pytest.raises(FormatError, match="holds positions in metres"):
        write_reconstruction(tmp_path / "a", replace(reconstruction, pixel_size_m=None), format)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_named(tmp_path: Path, dataset: PtychoDataset, reconstruction: Reconstruction) -> None:
    wrong: Any = "tiff"
    with pytest.raises(FormatError, match="'tiff'; allowed for measurements are npz, cxi"):
        save_dataset(tmp_path / "a", dataset, wrong)
    with pytest.raises(FormatError, match="'tiff'; allowed for results are hdf5, cxi"):
        write_reconstruction(tmp_path / "a", reconstruction, wrong)


def test_energy_and_distance_come_from_the_provenance(tmp_path: Path, reconstruction: Reconstruction) -> None:
    geometry = Geometry(energy_kev=8.8, distance_m=2.0, detector_pixel_m=75e-6)
    known = replace(reconstruction, provenance={"geometry": geometry.model_dump(mode="json")})
    for rec, energy, distance in ((known, 8800.0, 2.0), (reconstruction, 0.0, 0.0)):
        write_reconstruction(tmp_path / "a.npz", rec)
        with np.load(tmp_path / "a.npz") as arrays:
            for key in ("photon_energy_eV", "probe_energy_eV"):
                assert arrays[key] == pytest.approx(energy)
            assert arrays["detector_object_distance_m"] == distance
