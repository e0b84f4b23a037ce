"""Measurements made wrong on purpose: each ends in a message that names the likely cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.formats import load_dataset
from ptycho_bluesky.reconstruction.diagnosis import (
    check_dataset,
    explain_bad_fit,
    fit_limits,
    position_scale,
    refuse_if_wrong,
)

Made = Callable[..., PtychoDataset]
Moved = Callable[[Callable[[np.ndarray], np.ndarray]], PtychoDataset]


def found_in(dataset: PtychoDataset, trials: bool = False) -> dict[str, tuple[str, str]]:
    report = check_dataset(dataset, trials=trials, threads=1)
    return {finding.what: (finding.level, finding.text) for finding in report.findings}


def test_nothing_looks_wrong(scan: PtychoDataset) -> None:
    report = check_dataset(scan, threads=1)
    assert report.findings == ()
    assert str(report) == "dataset simulated: nothing looks wrong"
    assert report.orientation is not None
    assert report.orientation.as_given
    refuse_if_wrong(scan, trials=False)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1e3, "millimetres taken for metres; multiply them by 0.001"),
        (1e6, "micrometres taken for metres; multiply them by 1e-06"),
        (1e9, "nanometres taken for metres; multiply them by 1e-09"),
        (1e-3, "about 1000 times too small"),
        (1e-6, r"about 1e\+06 times too small"),
    ],
)
def test_units_taken_for_metres(moved: Moved, factor: float, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        refuse_if_wrong(moved(lambda positions: positions * factor))


def test_metres_taken_for_pixels(scan: PtychoDataset) -> None:
    level, text = found_in(replace(scan, geometry=None, pixel_size_m=None))["unit"]
    assert level == "error"
    assert "metres or micrometres taken for object pixels" in text


def test_positions_that_do_not_move(moved: Moved) -> None:
    assert "all frames have the same position" in found_in(moved(lambda positions: 0 * positions))["positions"][1]


def test_a_wide_scan_names_the_near_field(moved: Moved) -> None:
    level, text = found_in(moved(lambda positions: positions * 6))["overlap"]
    assert level == "error"
    assert "near field" in text


def test_a_probe_smaller_than_the_step(scan: PtychoDataset) -> None:
    probe = np.zeros((1, 64, 64), np.complex64)
    probe[0, 30:34, 30:34] = 1
    level, text = found_in(replace(scan, probe=probe))["overlap"]
    assert level == "warning"
    assert "the probe is only" in text


@pytest.mark.parametrize(("factor", "energy_kev"), [(1.1, 9.68), (0.9, 7.92)])
def test_an_energy_ten_per_cent_off(scan: PtychoDataset, factor: float, energy_kev: float) -> None:
    assert scan.geometry is not None
    geometry = scan.geometry.model_copy(update={"energy_kev": 8.8 * factor})
    wrong = replace(scan, geometry=geometry, pixel_size_m=geometry.pixel_size_m(64))
    level, text = found_in(wrong, trials=True)["scale"]
    assert level == "error"
    assert f"the energy ({energy_kev} keV given, 8." in text
    assert position_scale(wrong, threads=1).scale == pytest.approx(1 / factor, abs=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda positions: positions[:, ::-1], "the two axes of the positions are swapped"),
        (lambda positions: positions * [-1, 1], "the rows of the positions count the other way"),
        (lambda positions: -positions, "rows and columns of the positions count the other way"),
        (lambda positions: np.roll(positions, 1, axis=0), "frames and positions are out of step by one"),
    ],
    ids=["swapped", "rows", "both", "lag"],
)
def test_wrong_positions_are_refused(moved: Moved, change: Callable[[np.ndarray], np.ndarray], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        refuse_if_wrong(moved(change), threads=1)


def test_the_lag_has_a_direction(moved: Moved) -> None:
    late = found_in(moved(lambda positions: np.roll(positions, 1, axis=0)), trials=True)
    early = found_in(moved(lambda positions: np.roll(positions, -1, axis=0)), trials=True)
    assert "the position after its own" in late["order"][1]
    assert "the position before its own" in early["order"][1]


def test_positions_of_another_scan_are_no_lag(moved: Moved) -> None:
    shuffled = moved(lambda positions: np.random.default_rng(1).permutation(positions))
    found = found_in(shuffled, trials=True)
    assert found.keys() == {"orientation"}
    assert found["orientation"][0] == "warning"


def test_both_signs_without_a_probe_are_a_warning(moved: Moved) -> None:
    found = found_in(replace(moved(lambda positions: -positions), probe=None), trials=True)
    assert found["orientation"][0] == "warning"


@pytest.mark.parametrize("shift", [(6, 0), (-6, 6)])
def test_frames_off_centre(scan: PtychoDataset, shift: tuple[int, int]) -> None:
    found = found_in(replace(scan, frames=np.roll(scan.frames, shift, axis=(1, 2))), trials=True)
    assert found.keys() == {"centre"}  # and nothing else: neither orientation nor scale suffers from it
    assert f"give beam_center_px=({32 + shift[0]}, {32 + shift[1]})" in found["centre"][1]


def test_zero_frequency_in_the_corner(scan: PtychoDataset) -> None:
    level, text = found_in(replace(scan, frames=np.fft.ifftshift(scan.frames, axes=(1, 2))))["zero frequency"]
    assert level == "error"
    assert "zero_frequency='corner'" in text


def test_bad_pixels_and_saturation(scan: PtychoDataset) -> None:
    frames = np.minimum(scan.frames, 5000)
    frames[:, 31, 40], frames[:, 5, 5] = 0, 4000
    found = found_in(replace(scan, frames=frames))
    assert found.keys() == {"saturation", "bad pixels"}
    assert "5000" in found["saturation"][1]
    assert "1 dead pixel at (31, 40) and 1 hot pixel at (5, 5)" in found["bad pixels"][1]
    mask = np.zeros((64, 64), bool)
    mask[31, 40] = mask[5, 5] = True
    assert found_in(replace(scan, frames=frames, mask=mask)).keys() == {"saturation"}


def test_dark_and_empty_frames(scan: PtychoDataset) -> None:
    frames = np.array(scan.frames)
    frames[::9] //= 50
    frames[7] = 0
    found = found_in(replace(scan, frames=frames))
    assert "9 of 79" in found["dark frames"][1]
    assert "1 of 79" in found["frames"][1]
    with pytest.raises(DatasetError, match="none of the frames"):
        refuse_if_wrong(replace(scan, frames=np.zeros_like(frames)))


def test_several_faults_come_at_once(moved: Moved) -> None:
    wrong = moved(lambda positions: positions * 1e6)
    wrong = replace(wrong, frames=np.roll(wrong.frames, 6, axis=1))
    report = check_dataset(wrong)
    assert [finding.level for finding in report.findings] == ["error", "warning"]
    assert "(2 faults)" in str(report)
    assert report.orientation is None


def test_noise_and_nothing_bound_the_fit(scan: PtychoDataset, measured: Made) -> None:
    bright, dim = fit_limits(scan), fit_limits(measured(photons=1e4))
    assert 0.03 < bright.noise < 0.1 < dim.noise < dim.nothing
    assert bright.unexplained(bright.noise) == 0
    assert bright.unexplained(bright.nothing) == 1
    fractions = fit_limits(replace(scan, frames=np.asarray(scan.frames) * 0.37))
    assert fractions.noise == 0
    assert fractions.nothing == pytest.approx(bright.nothing)


def test_a_bad_fit_is_explained_and_a_good_one_is_left_alone(scan: PtychoDataset, moved: Moved) -> None:
    wrong = moved(lambda positions: positions[:, ::-1])
    assert explain_bad_fit(wrong, 0.12) is None
    assert explain_bad_fit(scan, 0.27, threads=1) is None  # nothing is found
    text = explain_bad_fit(wrong, 0.27, threads=1)
    assert text is not None
    assert "unexplained" in text
    assert "swap_axes=True" in text


@pytest.mark.data
@pytest.mark.parametrize(("factor", "expected"), [(1.1, 0.91), (0.9, 1.1)])
def test_measured_star_on_a_wrong_scale(data_folder: Path, factor: float, expected: float) -> None:
    star = load_dataset(data_folder / "siemens_star_small.npz.bz2")
    assert not check_dataset(star).findings
    assert "scale" in found_in(replace(star, positions=star.positions * factor), trials=True)
    assert position_scale(replace(star, positions=star.positions * factor)).scale == pytest.approx(expected, abs=0.05)


@pytest.mark.data
def test_measured_near_field_with_a_wrong_distance(data_folder: Path) -> None:
    file = data_folder / "petra3_p25_near_field.cxi"
    assert not check_dataset(load_dataset(file, focus_to_sample_m=3.65e-3)).findings
    with pytest.raises(DatasetError, match="focus_to_sample_m"):
        refuse_if_wrong(load_dataset(file, focus_to_sample_m=1.1 * 3.65e-3))
