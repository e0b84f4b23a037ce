from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import HC_KEV_M
from ptycho_bluesky.formats import load_dataset

Write = Callable[..., Path]
DETECTOR = "entry_1/instrument_1/detector_1/"
SOURCE = "entry_1/instrument_1/source_1/"
BEAM = "entry_1/instrument_1/beam_1/"
TRANSLATION = "entry_1/sample_1/geometry_1/translation"


class TestCxi:
    def test_geometry_and_positions(self, cxi: Write) -> None:
        translation = np.random.default_rng(0).normal(0, 1e-7, (8, 3))
        loaded = load_dataset(cxi(**{TRANSLATION: translation}))
        assert loaded.geometry is not None
        assert loaded.geometry.energy_kev == pytest.approx(10.0)
        assert loaded.pixel_size_m == pytest.approx(HC_KEV_M / 10 * 1.5 / (16 * 55e-6))
        assert loaded.modality == "far-field"
        np.testing.assert_allclose(loaded.positions, translation[:, [1, 0]])

    @pytest.mark.parametrize(
        ("rows", "columns", "axes"),
        [
            ((0, -1, 0), (-1, 0, 0), ((1, 1), (0, 1))),
            ((0, 1, 0), (-1, 0, 0), ((1, -1), (0, 1))),
            ((0, -1, 0), (1, 0, 0), ((1, 1), (0, -1))),
            ((-1, 0, 0), (0, -1, 0), ((0, 1), (1, 1))),
        ],
    )
    def test_positions_follow_the_basis_vectors(self, cxi: Write, rows: Any, columns: Any, axes: Any) -> None:
        translation = np.random.default_rng(0).normal(0, 1e-7, (8, 3))
        basis = np.array([rows, columns]).T * 55e-6
        path = cxi(
            **{DETECTOR + "basis_vectors": basis, TRANSLATION: translation},
        )
        expected = np.stack([translation[:, axis] * sign for axis, sign in axes], axis=1)
        np.testing.assert_allclose(load_dataset(path).positions, expected)
        np.testing.assert_allclose(load_dataset(path, axis_signs=(-1, 1)).positions, expected * [-1, 1])

    def test_loading_alone_keeps_no_writer_out(self, cxi: Write) -> None:
        path = cxi()
        loaded = load_dataset(path)
        with h5py.File(path, "r+") as file:
            file["added"] = 1
        assert loaded.frames[0:2].shape == (2, 16, 16)

    def test_energy_in_joules(self, cxi: Write) -> None:
        loaded = load_dataset(cxi(**{SOURCE + "wavelength": None, SOURCE + "energy": 10 * 1.602176634e-16}))
        assert loaded.geometry is not None
        assert loaded.geometry.energy_kev == pytest.approx(10.0)

    def test_units_may_be_other_than_si(self, cxi: Write) -> None:
        path = cxi(**{SOURCE + "wavelength": None, BEAM + "energy": 8.0})
        with h5py.File(path, "r+") as file:
            file[SOURCE + "energy"] = 3.0  # of the ring, in GeV, as NXcxi_ptycho has it
            for key, unit in ((BEAM + "energy", "keV"), (DETECTOR + "distance", "mm"), (TRANSLATION, b"um")):
                file[key].attrs["units"] = unit
            translation = file[TRANSLATION][()]
        loaded = load_dataset(path)
        assert loaded.geometry is not None
        assert loaded.geometry.energy_kev == pytest.approx(8.0)
        assert loaded.geometry.distance_m == pytest.approx(1.5e-3)
        np.testing.assert_allclose(loaded.positions, translation[:, [1, 0]] * 1e-6)

    def test_an_unknown_unit_is_refused(self, cxi: Write) -> None:
        path = cxi()
        with h5py.File(path, "r+") as file:
            file[TRANSLATION].attrs["units"] = "furlong"
        with pytest.raises(FormatError, match=r"scan\.cxi.*translation has units 'furlong'; allowed are m, mm"):
            load_dataset(path)

    def test_any_bit_of_the_mask_is_bad(self, cxi: Write) -> None:
        mask = np.zeros((16, 16), np.uint32)
        mask[3, 4], mask[5, 6] = 1, 1 << 20
        loaded = load_dataset(cxi(**{DETECTOR + "mask": mask}))
        assert loaded.mask is not None
        assert np.argwhere(loaded.mask).tolist() == [[3, 4], [5, 6]]

    def test_illumination_is_the_probe(self, cxi: Write) -> None:
        loaded = load_dataset(cxi(**{SOURCE + "illumination": np.ones((16, 16), np.complex64)}))
        assert loaded.probe is not None
        assert loaded.probe.shape == (1, 16, 16)

    def test_a_distance_from_the_focus_makes_it_near_field(self, cxi: Write) -> None:
        loaded = load_dataset(cxi(), focus_to_sample_m=1e-2)
        assert loaded.modality == "near-field"
        assert loaded.pixel_size_m == pytest.approx(55e-6 / 151)

    def test_parallel_near_field(self, cxi: Write) -> None:
        loaded = load_dataset(cxi(), modality="near-field")
        assert loaded.pixel_size_m == 55e-6

    def test_positions_that_cannot_overlap_are_reported(self, cxi: Write, caplog: pytest.LogCaptureFixture) -> None:
        translation = np.random.default_rng(0).normal(0, 1e-1, (8, 3))
        with caplog.at_level(logging.WARNING):
            load_dataset(cxi(**{TRANSLATION: translation}))
        assert "hardly overlap" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_dataset(cxi(**{TRANSLATION: translation * 1e-6}))
        assert not caplog.text
