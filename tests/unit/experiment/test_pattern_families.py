from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import (
    PATTERNS,
    ScanPattern,
    concentric,
    fermat,
    from_positions,
    inside,
    jittered,
    lissajous,
    pattern_named,
    raster,
    region,
    snake,
    within,
)

STEP = 1e-6
TRIANGLE = [[0.0, 0.0], [0.0, 8e-6], [8e-6, 0.0]]
U_SHAPE = np.array([[0, 0], [0, 9], [9, 9], [9, 6], [3, 6], [3, 3], [9, 3], [9, 0]]) * 1e-6

CASES = {
    "concentric": {"diameter_m": 6e-6, "step_m": STEP},
    "fermat": {"height_m": 5e-6, "width_m": 4e-6, "step_m": STEP},
    "lissajous": {"height_m": 5e-6, "width_m": 4e-6, "step_m": STEP},
    "list": {"positions_m": [[0.0, 1e-6], [2e-6, 3e-6]]},
    "raster": {"height_m": 5e-6, "width_m": 4e-6, "step_m": STEP},
    "region": {"vertices_m": TRIANGLE, "step_m": STEP},
    "snake": {"height_m": 5e-6, "width_m": 4e-6, "step_m": STEP},
}


def test_every_pattern_has_a_case() -> None:
    assert CASES.keys() == PATTERNS.keys()


@pytest.mark.parametrize("name", sorted(CASES))
def test_json_round_trips_to_the_last_bit(name: str) -> None:
    pattern = pattern_named(name, {**CASES[name], "center_m": [1e-6 / 3, -2e-6 / 7]})
    again = ScanPattern.from_dict(json.loads(json.dumps(pattern.to_dict())))
    np.testing.assert_array_equal(again.positions, pattern.positions)
    assert again == pattern and hash(again) == hash(pattern) and again.lines == pattern.lines
    assert pattern != pattern.moved((1e-9, 0))


@pytest.mark.parametrize("name", sorted(set(CASES) - {"list"}))
@pytest.mark.parametrize("changes", [{}, {"jitter_m": 1e-7, "jitter_seed": 3}, {"center_m": [3e-6, -1e-6]}])
def test_a_pattern_can_be_made_again_from_its_parameters(name: str, changes: dict[str, object]) -> None:
    pattern = pattern_named(name, {**CASES[name], **changes})
    parameters = json.loads(json.dumps(pattern.parameters))
    again = pattern_named(pattern.name, parameters)
    np.testing.assert_array_equal(again.positions, pattern.positions)
    assert again == pattern


@pytest.mark.parametrize(
    "given",
    [{"name": "list"}, {"name": "list", "positions_m": [[0, 0]], "colour": 1}, {"positions_m": [[0, 0]]}],
)
def test_a_description_with_wrong_keys_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="a pattern has the keys"):
        ScanPattern.from_dict(given)


@pytest.mark.parametrize("lines", [((0, 2),), ((0, 2), (1, 4)), ((0, 0), (0, 4)), ((1, 4),)])
def test_lines_must_follow_each_other(lines: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(PlanError, match="do not follow each other from 0 to 4"):
        ScanPattern("x", np.zeros((4, 2)), lines=lines)


@settings(max_examples=30)
@given(radius=st.floats(1, 12))
def test_circles_have_their_step_everywhere(radius: float) -> None:
    pattern = concentric(2 * radius * STEP, STEP)
    r = np.hypot(*pattern.positions.T)
    assert r.max() <= radius * STEP * (1 + 1e-9) and r.max() > (radius - 1) * STEP
    assert 0.9 * STEP < pattern.step_m() < 1.1 * STEP
    for start, stop in pattern.lines:
        assert np.ptp(r[start:stop]) < 1e-15
    assert len(pattern) == pytest.approx(
        np.pi * np.floor(radius + 1e-9) * (np.floor(radius + 1e-9) + 1) + 1, rel=0.01, abs=1
    )


@settings(max_examples=25)
@given(height=st.floats(3e-6, 12e-6), width=st.floats(3e-6, 12e-6))
def test_a_lissajous_curve_leaves_no_hole(height: float, width: float) -> None:
    pattern = lissajous(height, width, STEP)
    assert pattern.lines == ((0, len(pattern)),)
    assert np.hypot(*np.diff(pattern.positions, axis=0).T).max() <= STEP * (1 + 1e-9)
    places = np.stack(np.meshgrid(*(np.linspace(-s / 2, s / 2, 30) for s in (height, width)), indexing="ij"), -1)
    offset = places.reshape(-1, 1, 2) - pattern.positions[None]
    assert np.sqrt((offset**2).sum(-1)).min(axis=1).max() <= STEP * (1 + 1e-9)
    assert (np.abs(pattern.positions) <= np.array([height, width]) / 2 * (1 + 1e-12)).all()
    assert len(pattern) < 4.5 * (height / STEP + 2) * (width / STEP + 2) * max(height / width, width / height)


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=3, max_size=8),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_inside_agrees_with_the_winding_of_a_fine_ray(
    vertices: list[tuple[float, float]], place: tuple[float, float]
) -> None:
    # The even-odd rule in the other direction: a ray along y instead of x gives the same answer off the edges.
    polygon, point = np.array(vertices), np.array([place])
    ends = np.roll(polygon, -1, axis=0)
    along = ends - polygon
    t = np.clip(((point - polygon) * along).sum(1) / np.maximum((along**2).sum(1), 1e-300), 0, 1)
    if np.hypot(*(polygon + t[:, None] * along - point).T).min() < 1e-6:
        return
    assert inside(point, polygon)[0] == inside(point[:, ::-1], polygon[:, ::-1])[0]


@settings(max_examples=30)
@given(step=st.floats(0.3e-6, 1.4e-6))
def test_a_region_holds_the_grid_inside_and_nothing_else(step: float) -> None:
    pattern = region(U_SHAPE, step)
    assert inside(pattern.positions, U_SHAPE).all() and pattern.name == "region"
    assert pattern.step_m() == pytest.approx(step, rel=1e-6)
    assert len(pattern) == pytest.approx(63e-12 / step**2, abs=50e-6 / step)
    for start, stop in pattern.lines:  # a row of the U's upper part is two lines, not one over the gap
        steps = np.hypot(*np.diff(pattern.positions[start:stop], axis=0).T)
        np.testing.assert_allclose(steps, step, rtol=1e-6)


def test_a_region_filled_with_a_spiral_and_enlarged() -> None:
    spiral = region(TRIANGLE, STEP, fill="fermat")
    assert inside(spiral.positions, TRIANGLE).all() and not spiral.lines
    assert len(spiral) == pytest.approx(32, rel=0.2)
    wider = region(TRIANGLE, STEP, margin_m=1e-6)
    assert len(wider) > len(region(TRIANGLE, STEP))
    with pytest.raises(PlanError, match="fill is 'hilbert'"):
        region(TRIANGLE, STEP, fill="hilbert")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="vertices_m have shape"):
        region([[0, 0], [1, 1]], STEP)


def test_any_pattern_within_a_polygon() -> None:
    cut = within(snake(9e-6, 9e-6, STEP).moved((4.5e-6, 4.5e-6)), U_SHAPE)
    assert inside(cut.positions, U_SHAPE).all() and cut.shape is None
    assert [stop - start for start, stop in cut.lines][-2:] == [3, 3]
    with pytest.raises(PlanError, match="no position of pattern 'fermat' lies in the polygon"):
        within(fermat(3e-6, 3e-6, STEP), np.array(TRIANGLE) + 1e-3)


def test_box_area_and_way() -> None:
    pattern = raster(3e-6, 4e-6, STEP)
    np.testing.assert_allclose(pattern.bounding_box_m, [(-1.5e-6, -2e-6), (1.5e-6, 2e-6)])
    assert pattern.area_m2 == pytest.approx(12e-12)
    assert snake(3e-6, 4e-6, STEP).path_m == pytest.approx(19e-6)
    assert from_positions([[0, 0]]).area_m2 == 0 and from_positions([[0, 0]]).path_m == 0
    assert from_positions([[0, 0], [1, 1], [2, 2]]).area_m2 == 0
    assert concentric(20e-6, 0.5e-6).area_m2 == pytest.approx(np.pi * 100e-12, rel=0.01)


def test_parts_of_a_pattern_keep_their_lines() -> None:
    pattern = snake(2e-6, 3e-6, STEP)
    part = pattern.part(6)
    assert part.lines == ((0, 2), (2, 6)) and part.shape is None
    np.testing.assert_array_equal(part.positions, pattern.positions[6:])
    assert pattern.part(1, 3).lines == ((0, 2),)


def test_moves_add_up_and_jitter_takes_the_lines_away() -> None:
    pattern = snake(2e-6, 3e-6, STEP).moved((1e-6, 0)).moved((0, 2e-6))
    assert pattern.parameters["center_m"] == pytest.approx([1e-6, 2e-6]) and pattern.lines
    assert jittered(pattern, 1e-8).lines == ()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=60))
def test_the_step_is_that_of_all_pairs(places: list[tuple[float, float]]) -> None:
    positions = np.array(places) * STEP
    distance = np.hypot(*(positions[:, None] - positions[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    assert from_positions(positions).step_m() == np.median(distance.min(axis=1))
