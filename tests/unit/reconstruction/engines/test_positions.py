"""Positions are corrected: what neighbours share, what each frame has of its own, nothing where nothing is wrong."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Geometry, fermat
from ptycho_bluesky.optics import random_foam, simulate_dataset, zone_plate_probe
from ptycho_bluesky.reconstruction import reconstruct
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction.engines._positions import AffineMap, Pace, PositionCorrection, diameter_px
from ptycho_bluesky.reconstruction.judgement import position_residual

SIZE = 64
GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
PIXEL = GEOMETRY.pixel_size_m(SIZE)
OPTIONS = {"modes": 1, "epochs": 40, "position_correction": True, "threads": 1}


@pytest.fixture(scope="module")
def foam():
    """A specimen with detail everywhere: each frame can tell where it is."""
    pattern = fermat(100 * PIXEL, 100 * PIXEL, 9 * PIXEL)
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    probe = zone_plate_probe(SIZE, PIXEL, GEOMETRY.wavelength_m, defocus_m=150e-6, **optics)
    return simulate_dataset(random_foam((300, 300), seed=2), probe[None], pattern, GEOMETRY, 1e6)


def spoilt(kind: str, positions: np.ndarray) -> np.ndarray:
    """Positions in pixels with an error of one kind."""
    centered, rng = positions - positions.mean(axis=0), np.random.default_rng(4)
    along = np.linspace(-1, 1, len(positions))
    return {
        "drift": positions + np.column_stack([3 * along, 3 * along**2]),
        "random": positions + centered @ np.array([[0.02, 0.02], [-0.02, 0.0]]) + rng.normal(0, 4.2, positions.shape),
    }[kind]


@pytest.mark.parametrize("kind", ["random", "drift"])
def test_errors_are_found_up_to_an_affine_map(foam, kind):
    true = foam.positions / PIXEL
    wrong = spoilt(kind, true)
    result = reconstruct(replace(foam, positions=wrong * PIXEL), "fast", OPTIONS)
    before, after = (position_residual(p, true) for p in (wrong, result.positions / PIXEL))
    assert after < 0.2 * before and after < 0.6, (before, after)
    plain = reconstruct(replace(foam, positions=wrong * PIXEL), "fast", {**OPTIONS, "position_correction": False})
    assert result.r_factor < 0.95 * plain.r_factor
    assert "rotation" in result.provenance["messages"][-1]


def test_right_positions_stay_and_the_fit_is_no_worse(foam):
    on, off = (reconstruct(foam, "fast", {**OPTIONS, "position_correction": c}) for c in (True, False))
    assert position_residual(on.positions / PIXEL, foam.positions / PIXEL) < 0.15
    assert on.r_factor < 1.01 * off.r_factor
    np.testing.assert_array_equal(off.positions, foam.positions)


def model_of(problem, corners) -> Model:
    return replace(problem.start, corners=corners)


def test_what_neighbours_share_is_resolved_and_the_object_goes_along(foam):
    """Shifts against an object with the neighbours' own errors tell but their difference."""
    problem = prepare(foam, 1, margin=40)
    given_corners = problem.start.corners
    correction = PositionCorrection(problem, Pace(prior=(1e-9, 1e-9), gain=(1.0, 1.0), damping=1e-6))
    centered = given_corners - given_corners.mean(axis=0)
    error = 0.02 * centered
    overlap = correction._overlap(problem.start)
    seen = error - (overlap @ error) / np.asarray(overlap.sum(axis=1)).reshape(-1, 1)
    assert np.abs(seen).mean() < 0.5 * np.abs(error).mean()
    moved = correction.apply(problem.start, seen, 0, 1)
    np.testing.assert_allclose(moved.corners - given_corners, error, atol=0.05)
    bright = np.array(problem.grid.shape) // 2
    dot = problem.start.object.copy()
    dot[0, bright[0] + 30, bright[1] - 30] = 2
    carried = correction._carried(replace(problem.start, object=dot), 0.05 * centered)
    weights = np.abs(carried[0] - 1)
    found = np.array([(weights * axis).sum() for axis in np.indices(weights.shape)]) / weights.sum()
    assert found[0] > bright[0] + 30.6 and found[1] < bright[1] - 30.6


def test_the_prior_draws_towards_the_affine_map_and_corners_stay_on_the_object(foam):
    problem = prepare(foam, 1, margin=4)
    rng = np.random.default_rng(0)
    strayed = problem.start.corners + rng.normal(0, 1, problem.start.corners.shape)
    correction = PositionCorrection(problem, Pace(prior=(0.5, 0.5), damping=0.0))
    none = np.zeros_like(strayed)
    drawn = correction.apply(model_of(problem, strayed), none, 0, 10)
    assert correction.map_of(drawn).rms_px < 0.9 * correction.map_of(model_of(problem, strayed)).rms_px
    outwards = 100 * np.sign(strayed - strayed.mean(axis=0))
    model = problem.start
    for epoch in range(6):
        model = correction.apply(model, outwards, epoch, 10)
    last = np.array(problem.grid.shape) - SIZE
    assert (model.corners >= 0).all() and (model.corners <= last).all()
    assert "may belong beyond it" in correction.report(model)


@given(scale=st.floats(0.8, 1.2), turn=st.floats(-20, 20), shear=st.floats(-10, 10), seed=st.integers(0, 99))
def test_an_affine_map_is_told_in_words_and_leaves_no_residual(scale, turn, shear, seed):
    points = np.random.default_rng(seed).normal(0, 50, (30, 2))
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = np.array([[c, -s], [s, c]]) @ np.array([[scale, np.tan(np.radians(shear))], [0, 1]])
    found = AffineMap.between(points, points @ matrix.T + 7)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-9)
    assert found.rms_px < 1e-9
    for text in (f"scale {scale:.4f} x 1.0000", f"{abs(turn):.3f} deg", f"{abs(shear):.3f} deg", "0.00 px rms"):
        assert text in str(found).replace("-", "")
    assert position_residual(points @ matrix.T + 7, points) < 1e-9
    assert position_residual(points + 7, points, affine=False) < 1e-9


def test_residual_counts_what_is_left_and_refuses_other_shapes():
    rng = np.random.default_rng(1)
    true, error = rng.normal(0, 100, (4000, 2)), rng.normal(0, 0.3, (4000, 2))
    assert position_residual(true + error, true) == pytest.approx(0.3 * np.sqrt(2), rel=0.05)
    assert position_residual(1.1 * true, true, affine=False) > 10
    with pytest.raises(ReconstructionError, match=r"\(4000, 2\)"):
        position_residual(true[0], true)


def test_the_diameter_of_a_disc():
    y, x = np.indices((64, 64)) - 32
    disc = (np.hypot(y, x) <= 10).astype(np.complex64)
    assert diameter_px(disc[None]) == pytest.approx(20 * np.sqrt(0.9), rel=0.05)
