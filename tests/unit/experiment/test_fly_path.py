from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import FlyPath, lissajous, snake


def path(exposure_s: float = 0.01, period_s: float = 0.02) -> FlyPath:
    pattern = snake(2e-6, 3e-6, 1e-6)
    return FlyPath(pattern.positions * 1e6, exposure_s, period_s, pattern.lines)


def test_a_row_is_passed_at_one_speed() -> None:
    flown = path()
    np.testing.assert_allclose(np.abs(flown.velocity[:, 1]), 50.0)
    np.testing.assert_allclose(flown.velocity[:, 0], 0, atol=1e-12)
    assert (flown.velocity[:4, 1] > 0).all() and (flown.velocity[4:8, 1] < 0).all()
    np.testing.assert_allclose((flown.end - flown.begin)[0], [0, 0.5])
    np.testing.assert_allclose((flown.end + flown.begin) / 2, flown.positions, atol=1e-12)
    assert flown.seconds == pytest.approx(0.24)


def test_without_dead_time_exposures_touch() -> None:
    flown = path(0.02, 0.02)
    for start, stop in flown.lines:
        np.testing.assert_allclose(flown.end[start : stop - 1], flown.begin[start + 1 : stop])


def test_a_curve_turns_smoothly() -> None:
    pattern = lissajous(4e-6, 4e-6, 0.2e-6)
    flown = FlyPath(pattern.positions * 1e6, 1e-3, 1e-3, pattern.lines)
    steps = np.diff(flown.velocity, axis=0)
    assert np.abs(steps).max() < 0.35 * np.abs(flown.velocity).max()


def test_a_line_of_one_frame_stands_still() -> None:
    flown = FlyPath(np.zeros((2, 2)), 0.1, 0.1, ((0, 1), (1, 2)))
    np.testing.assert_array_equal(flown.velocity, 0)
    np.testing.assert_array_equal(flown.begin, flown.end)


@given(most=st.integers(1, 40))
def test_flights_are_the_path_in_pieces_of_whole_lines(most: int) -> None:
    flown = path()
    flights = flown.flights(most)
    np.testing.assert_array_equal(np.concatenate([f.positions for f in flights]), flown.positions)
    assert all(len(f) <= max(most, 4) for f in flights)
    assert sum(len(f.lines) for f in flights) == len(flown.lines)


def test_plain_values_give_the_same_path() -> None:
    flown = path()
    again = FlyPath(**flown.to_dict())
    np.testing.assert_array_equal(again.positions, flown.positions)
    assert again.period_s == flown.period_s and [tuple(line) for line in again.lines] == list(flown.lines)


@pytest.mark.parametrize(
    ("positions", "exposure_s", "period_s", "lines", "text"),
    [
        (np.zeros((2, 3)), 0.1, 0.1, ((0, 2),), "positions have shape"),
        ([[0, np.nan]], 0.1, 0.1, ((0, 1),), "positions have shape"),
        (np.zeros((2, 2)), 0.2, 0.1, ((0, 2),), "not above the period"),
        (np.zeros((2, 2)), 0.0, 0.1, ((0, 2),), "exposure must be above 0"),
        (np.zeros((2, 2)), 0.1, 0.1, (), "do not follow each other"),
        (np.zeros((2, 2)), 0.1, 0.1, ((0, 1),), "do not follow each other"),
    ],
)
def test_a_path_that_cannot_be_flown(positions, exposure_s, period_s, lines, text) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError, match=text):
        FlyPath(positions, exposure_s, period_s, lines)
