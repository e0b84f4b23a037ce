"""Files that peers' own writers made (``tests/golden/make.py`` says how), read against the truth behind them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.formats import identify, load_dataset, read_reconstruction
from tests.golden import truth

GOLDEN = Path(truth.__file__).parent
MEASUREMENTS = ("cdtools.cxi", "ptypy.ptyd")
RESULTS = (
    "ptychodus_product.h5",
    "ptychodus_product.npz",
    "ptychodus_2025.h5",
    "ptychodus_result.cxi",
    "ptypy.ptyr",
    "fold_slice_v5.mat",
    "fold_slice_v73.mat",
)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_measurements(name: str) -> None:
    dataset = load_dataset(GOLDEN / name)
    np.testing.assert_array_equal(np.asarray(dataset.frames), truth.FRAMES)
    np.testing.assert_allclose(dataset.positions, truth.POSITIONS, rtol=0, atol=1e-6 * truth.PIXEL)
    assert dataset.mask is not None
    np.testing.assert_array_equal(dataset.mask, truth.MASK)
    assert dataset.geometry is not None
    assert dataset.geometry.energy_kev == pytest.approx(truth.ENERGY_KEV, rel=1e-6)
    assert dataset.geometry.distance_m == pytest.approx(truth.DISTANCE)
    assert dataset.geometry.detector_pixel_m == pytest.approx(truth.DETECTOR_PIXEL)
    assert dataset.pixel_size_m == pytest.approx(truth.PIXEL, rel=1e-6)


def test_chunks_are_read_slice_by_slice() -> None:
    frames: Any = load_dataset(GOLDEN / "ptypy.ptyd").frames
    np.testing.assert_array_equal(frames[3:5], truth.FRAMES[3:5])
    np.testing.assert_array_equal(frames[-1], truth.FRAMES[-1])


@pytest.mark.parametrize("name", RESULTS)
def test_results(name: str) -> None:
    rec = read_reconstruction(GOLDEN / name)
    np.testing.assert_array_equal(rec.object, truth.OBJECT)
    np.testing.assert_array_equal(rec.probe, truth.COHERENT[0])
    assert rec.pixel_size_m == pytest.approx(truth.PIXEL)
    np.testing.assert_array_equal(rec.errors, truth.LOSSES)
    assert np.isnan(rec.r_factor)
    assert rec.phase_contrast_rad > 0.5
    assert rec.provenance["geometry"]["energy_kev"] == pytest.approx(truth.ENERGY_KEV)
    assert rec.provenance["geometry"]["detector_pixel_m"] == pytest.approx(truth.DETECTOR_PIXEL)
    assert rec.coverage.max() == 1
    assert not rec.coverage[-1, -1]


@pytest.mark.parametrize("name", RESULTS)
def test_every_patch_lies_where_its_writer_has_it(name: str) -> None:
    rec = read_reconstruction(GOLDEN / name)
    assert rec.pixel_size_m is not None
    corners = (rec.positions - np.asarray(rec.origin)) / rec.pixel_size_m
    np.testing.assert_allclose(corners, truth.CORNERS, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in RESULTS if name != "ptypy.ptyr"])  # which holds no weights
def test_the_probe_of_each_frame(name: str) -> None:
    rec = read_reconstruction(GOLDEN / name)
    assert rec.opr_modes is not None
    assert rec.opr_weights is not None
    mine = rec.probe[0] + np.tensordot(rec.opr_weights, rec.opr_modes, axes=1)
    theirs = np.tensordot(truth.WEIGHTS, truth.COHERENT[:, 0], axes=1)
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["ptychodus_product.h5", "fold_slice_v5.mat", "fold_slice_v73.mat"])
def test_the_angle_is_noted(name: str) -> None:
    assert read_reconstruction(GOLDEN / name).provenance["rotation_deg"] == 30


@pytest.mark.parametrize("name", [*MEASUREMENTS, *RESULTS])
def test_what_a_file_holds_is_told(name: str) -> None:
    kind = identify(GOLDEN / name)
    assert (kind.measurement, kind.result) == (name in MEASUREMENTS, name in RESULTS)
    reader: Any = load_dataset if kind.result else read_reconstruction
    with pytest.raises(FormatError, match=f"{name} (holds a result|is no reconstruction)"):
        reader(GOLDEN / name)


def test_frames_without_positions_are_refused() -> None:
    with pytest.raises(FormatError, match=r"without sample translations.*ptychodus"):
        load_dataset(GOLDEN / "ptychodus_data.cxi")


def test_nothing_is_said_of_a_good_file(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for name in RESULTS:
            read_reconstruction(GOLDEN / name)
        for name in MEASUREMENTS:
            load_dataset(GOLDEN / name)
    assert not caplog.text
