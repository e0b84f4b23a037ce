from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import ScanPattern, fermat, from_positions, jittered, raster, snake

STEP = 1e-6
sides = st.floats(0, 12e-6)


@pytest.mark.parametrize("positions", [np.zeros((0, 2)), np.zeros((3, 3)), np.zeros(4), [[0.0, np.nan]]])
def test_positions_that_are_none_are_refused(positions: np.ndarray) -> None:
    with pytest.raises(PlanError, match=r"scan pattern 'list'.*(\(N, 2\)|not finite)"):
        from_positions(positions)


@pytest.mark.parametrize("make", [raster, snake, fermat])
@pytest.mark.parametrize("step", [0.0, -1e-6, np.nan])
def test_a_step_must_be_positive(make: Callable[..., ScanPattern], step: float) -> None:
    with pytest.raises(PlanError, match=r"step_m is .*; it must be above 0"):
        make(1e-6, 1e-6, step)


@pytest.mark.parametrize("make", [raster, snake])
@pytest.mark.parametrize("sides", [(-1e-6, 1e-6), (1e-6, -1e-6), (np.nan, 1e-6), (1e-6, np.inf)])
def test_a_box_must_be_real(make: Callable[..., ScanPattern], sides: tuple[float, float]) -> None:
    with pytest.raises(PlanError, match="height"):
        make(*sides, STEP)


@pytest.mark.parametrize("sides", [(0.0, 1e-6), (1e-6, -1e-6), (np.nan, 1e-6), (1e-6, np.inf)])
def test_a_spiral_needs_an_area(sides: tuple[float, float]) -> None:
    with pytest.raises(PlanError, match=r"(height|width)_m is"):
        fermat(*sides, STEP)


@pytest.mark.parametrize("make", [raster, snake, fermat])
def test_micrometres_taken_for_metres_are_refused_at_once(make: Callable[..., ScanPattern]) -> None:
    with pytest.raises(PlanError, match=r"would have .* positions.*in metres"):
        make(20, 20, 0.5e-6)


def test_several_faults_come_in_one_text() -> None:
    with pytest.raises(PlanError, match=r"2 faults.*height_m.*step_m"):
        fermat(0.0, 1e-6, 0.0)


@pytest.mark.parametrize("make", [raster, snake])
@given(height=sides, width=sides)
def test_grids_stay_in_the_box_centred_with_their_step(
    make: Callable[..., ScanPattern], height: float, width: float
) -> None:
    pattern = make(height, width, STEP)
    assert pattern.shape is not None
    assert len(pattern) == pattern.shape[0] * pattern.shape[1]
    assert (np.abs(pattern.positions) <= np.array([height, width]) / 2 + 1e-14).all()
    np.testing.assert_allclose(pattern.positions.mean(axis=0), 0, atol=1e-15)
    # One more row or column would leave the box.
    assert (np.array(pattern.extent_m) + STEP > np.array([height, width]) - 1e-14).all()
    if len(pattern) > 1:
        assert pattern.step_m() == pytest.approx(STEP)


def test_a_raster_goes_left_to_right_and_top_to_bottom() -> None:
    positions = raster(1e-6, 2e-6, STEP).positions
    np.testing.assert_allclose(
        positions * 1e6, [[-0.5, -1], [-0.5, 0], [-0.5, 1], [0.5, -1], [0.5, 0], [0.5, 1]], atol=1e-12
    )


@given(height=sides, width=sides)
def test_a_snake_never_goes_further_than_a_step(height: float, width: float) -> None:
    pattern = snake(height, width, STEP)
    assert pattern.snaking
    steps = np.hypot(*np.diff(pattern.positions, axis=0).T)
    np.testing.assert_allclose(steps, STEP)
    order = np.lexsort(np.round(pattern.positions.T[::-1] / STEP, 3))
    np.testing.assert_allclose(pattern.positions[order], raster(height, width, STEP).positions, atol=1e-15)


@given(height=st.floats(2e-6, 12e-6), width=st.floats(2e-6, 12e-6))
def test_a_spiral_stays_in_its_box(height: float, width: float) -> None:
    pattern = fermat(height, width, STEP)
    assert (np.abs(pattern.positions) <= np.array([height, width]) / 2 * (1 + 1e-9)).all()
    np.testing.assert_array_equal(pattern.positions[0], 0)


@pytest.mark.parametrize("box", [(20e-6, 20e-6), (40e-6, 10e-6)])
def test_a_spiral_is_as_dense_as_a_raster_of_its_step(box: tuple[float, float]) -> None:
    pattern = fermat(*box, STEP)
    assert len(pattern) == pytest.approx(box[0] * box[1] / STEP**2, rel=0.05)
    counts = np.histogram2d(*pattern.positions.T, bins=(4, 4), range=[(-s / 2, s / 2) for s in box])[0]
    assert counts.min() > 0.8 * counts.mean()
    assert 0.8 * STEP < pattern.step_m() < 1.2 * STEP


@given(overlap=st.floats(0, 0.95))
def test_overlap_of_a_raster(overlap: float) -> None:
    diameter = STEP / (1 - overlap)
    assert raster(3e-6, 3e-6, STEP).overlap(diameter) == pytest.approx(overlap, abs=1e-6)


def test_overlap_of_probes_that_do_not_touch() -> None:
    assert raster(3e-6, 3e-6, STEP).overlap(0.5e-6) == 0


@pytest.mark.parametrize("diameter", [0.0, -1.0, np.nan])
def test_a_probe_needs_a_diameter(diameter: float) -> None:
    pattern = raster(3e-6, 3e-6, STEP)
    with pytest.raises(PlanError, match="must be above 0"):
        pattern.overlap(diameter)
    with pytest.raises(PlanError, match="must be above 0"):
        pattern.fluence_photons_m2(1e6, diameter)


def test_fluence() -> None:
    # 16 frames of 1e6 photons over (3 + 1) x (3 + 1) square micrometres.
    assert raster(3e-6, 3e-6, STEP).fluence_photons_m2(1e6, 1e-6) == pytest.approx(1e18)


def test_step_of_one_position_and_of_many_blocks() -> None:
    assert from_positions([[0.0, 0.0]]).step_m() == 0
    assert raster(39e-6, 39e-6, STEP).step_m() == pytest.approx(STEP)


def test_moved_and_jittered() -> None:
    pattern = snake(5e-6, 5e-6, STEP)
    moved = pattern.moved((1e-3, -2e-3))
    np.testing.assert_allclose(moved.positions - pattern.positions, [[1e-3, -2e-3]] * len(pattern))
    assert (moved.name, moved.shape, moved.snaking) == ("snake", (6, 6), True)
    first, second = jittered(pattern, 1e-7, seed=4), jittered(pattern, 1e-7, seed=4)
    np.testing.assert_array_equal(first.positions, second.positions)
    assert (first.positions - pattern.positions).std() == pytest.approx(1e-7, rel=0.3)
    assert first.parameters["jitter_m"] == 1e-7
    for sigma in (-1e-7, np.nan):
        with pytest.raises(PlanError, match="not negative"):
            jittered(pattern, sigma)


def test_positions_are_copied_and_frozen() -> None:
    given = np.zeros((2, 2))
    pattern = from_positions(given)
    given[:] = 1
    assert not pattern.positions.any()
    with pytest.raises(ValueError, match="read-only"):
        pattern.positions[0] = 1
