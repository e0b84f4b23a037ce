"""Which way the positions count: all eight cases, with and without a probe, and what cannot be told."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import PtychoDataset, orientations
from ptycho_bluesky.formats import load_dataset
from ptycho_bluesky.reconstruction.diagnosis import PositionAxes, detect_orientation

CASES = [PositionAxes(s, signs) for s in (False, True) for signs in itertools.product((1, -1), repeat=2)]
SOME = [PositionAxes(False, (1, -1)), PositionAxes(True, (1, 1)), PositionAxes(True, (-1, 1))]

cases = st.sampled_from(CASES)
Made = Callable[..., PtychoDataset]


@given(cases, st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=5))
def test_turning_the_frames_instead_undoes_the_case(case: PositionAxes, points: list[tuple[float, float]]) -> None:
    """A pixel at v of the frame goes where the inverse of the case sends it."""
    frame, middle = np.zeros((5, 5)), 2
    frame[middle - 2, middle + 1] = 1
    turned = np.argwhere(case.orientation.apply(frame))[0] - middle
    np.testing.assert_array_equal(case.apply(turned[None].astype(float))[0], [-2, 1])
    there = case.apply(np.array(points))
    np.testing.assert_allclose(np.abs(there).sum(axis=1), np.abs(points).sum(axis=1))


def test_eight_cases_are_eight_orientations() -> None:
    assert {case.orientation.model_dump_json() for case in CASES} == {o.model_dump_json() for o in orientations()}


@pytest.mark.parametrize("wrong", CASES, ids=str)
def test_each_case_is_found_with_a_probe(scan: PtychoDataset, wrong: PositionAxes) -> None:
    found = detect_orientation(replace(scan, positions=wrong.apply(scan.positions)), threads=1)
    assert (found.decided, found.sign_decided) == (True, True)
    np.testing.assert_allclose(found.best.apply(wrong.apply(scan.positions)), scan.positions)
    assert found.as_given == (wrong == PositionAxes())
    assert found.candidates[0][1] < 0.7 * found.candidates[1][1]


@pytest.mark.parametrize("wrong", SOME, ids=str)
def test_absorption_tells_the_sign_where_there_is_no_probe(scan: PtychoDataset, wrong: PositionAxes) -> None:
    spoiled = replace(scan, positions=wrong.apply(scan.positions), probe=None)
    found = detect_orientation(spoiled, frames=80, threads=1)
    assert found.sign_decided
    assert "absorption" in found.reasons[-1]
    np.testing.assert_allclose(found.apply(spoiled).positions, scan.positions)


def test_a_detector_that_is_turned(scan: PtychoDataset) -> None:
    wrong = next(o for o in orientations() if o.transpose and o.flip_columns and not o.flip_rows)
    found = detect_orientation(replace(scan, frames=wrong.apply(np.asarray(scan.frames))), threads=1)
    turned_back = found.best.orientation.apply(wrong.apply(np.asarray(scan.frames)))
    np.testing.assert_array_equal(turned_back, scan.frames)


def test_a_pure_phase_object_does_not_tell_the_sign(measured: Made) -> None:
    smooth = np.random.default_rng(0).standard_normal((180, 180))
    smooth = np.real(np.fft.ifft2(np.fft.fft2(smooth) * (np.hypot(*np.meshgrid(*[np.fft.fftfreq(180)] * 2)) < 0.08)))
    obj = np.exp(0.5j * smooth / smooth.std()).astype(np.complex64)
    found = detect_orientation(replace(measured(obj), probe=None), frames=80, threads=1)
    assert (found.decided, found.sign_decided, found.as_given) == (True, False, True)
    assert "reverse both axis_signs" in str(found)


def test_a_probe_of_the_other_side_of_the_focus_is_contradicted(scan: PtychoDataset) -> None:
    assert scan.probe is not None
    found = detect_orientation(replace(scan, probe=scan.probe.conj()), threads=1)
    assert (found.decided, found.sign_decided, found.as_given) == (True, False, True)
    assert "the other side of the focus" in str(found)


def test_words_and_arguments(scan: PtychoDataset) -> None:
    found = detect_orientation(replace(scan, positions=scan.positions * [1, -1]), threads=1)
    assert found.arguments == {"axis_signs": (1, -1)}
    assert "the columns of the positions count the other way" in str(found)
    assert "give axis_signs=(1, -1), or for the mirror image orientation={'flip_columns': True}" in str(found)


def test_vacuum_is_undecided_and_not_applied(measured: Made) -> None:
    empty = measured(np.ones((180, 180), np.complex64))
    found = detect_orientation(empty, threads=1)
    assert not found.decided
    with pytest.raises(DatasetError, match="not decided"):
        found.apply(empty)


def test_too_few_frames_are_not_tried(scan: PtychoDataset) -> None:
    found = detect_orientation(scan.subset(slice(0, 9)))
    assert (found.tried, found.decided) == (False, False)
    assert "9 frames are too few" in str(found)


def test_the_number_of_threads_does_not_matter(scan: PtychoDataset) -> None:
    one, two = (detect_orientation(scan, frames=40, threads=n) for n in (1, 2))
    assert one == two


@pytest.mark.data
@pytest.mark.parametrize("wrong", SOME, ids=str)
@pytest.mark.parametrize("known", [True, False], ids=["probe", "no probe"])
def test_measured_star(data_folder: Path, wrong: PositionAxes, known: bool) -> None:
    star = load_dataset(data_folder / "siemens_star_small.npz.bz2")
    star = star if known else replace(star, probe=None)
    found = detect_orientation(replace(star, positions=wrong.apply(star.positions)))
    assert found.sign_decided
    np.testing.assert_allclose(found.best.apply(wrong.apply(star.positions)), star.positions)


@pytest.mark.data
@pytest.mark.parametrize("wrong", [PositionAxes(False, (-1, -1)), *SOME], ids=str)
def test_measured_near_field(data_folder: Path, wrong: PositionAxes) -> None:
    near = load_dataset(data_folder / "petra3_p25_near_field.cxi", focus_to_sample_m=3.65e-3)
    found = detect_orientation(replace(near, positions=wrong.apply(near.positions)))
    assert found.sign_decided
    np.testing.assert_allclose(found.best.apply(wrong.apply(near.positions)), near.positions)
