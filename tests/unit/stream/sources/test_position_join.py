"""Frames find their positions by number or by time, whatever the order of arrival."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream.sources import ClockOffset, PositionJoin, SourceFrame

PIXELS = np.zeros((2, 2), np.uint16)


def frame(index: int, time: float = math.nan, **more: object) -> SourceFrame:
    return SourceFrame(index, time, PIXELS, **more)  # type: ignore[arg-type]


def place(index: float) -> tuple[float, float]:
    return 2.0 * index, -1.0 * index


@given(
    frames=st.permutations(range(12)),
    positions=st.permutations(range(12)),
    steps=st.lists(st.booleans(), min_size=24, max_size=24),
    lost_frames=st.sets(st.integers(0, 11), max_size=4),
    lost_positions=st.sets(st.integers(0, 11), max_size=4),
)
def test_by_index_no_order_of_arrival_matters(
    frames: list[int], positions: list[int], steps: list[bool], lost_frames: set[int], lost_positions: set[int]
) -> None:
    join, found = PositionJoin(), []
    to_come, known = [n for n in frames if n not in lost_frames], [n for n in positions if n not in lost_positions]
    sent = list(to_come)
    for take_frame in steps:
        if take_frame and to_come:
            found += join.add([frame(to_come.pop(0))])
        elif known:
            n = known.pop(0)
            join.positions([n], [place(n)])
    join.positions(known, np.reshape([place(n) for n in known], (-1, 2)))
    found += join.add([frame(n) for n in to_come])
    assert {f.index for f, _, _ in found} == set(sent) - lost_positions
    assert all((y, x) == place(f.index) for f, y, x in found)
    assert join.waiting == len(set(sent) & lost_positions)
    assert join.unmatched == 0


@given(
    times=st.lists(st.floats(0, 10), min_size=1, max_size=20),
    shuffle=st.permutations(range(101)),
    offset=st.floats(-100, 100),
)
def test_by_time_positions_are_interpolated_against_the_stages_clock(
    times: list[float], shuffle: list[int], offset: float
) -> None:
    join = PositionJoin("time", clock=ClockOffset(offset), max_gap_s=0.2)
    grid = np.linspace(0, 10, 101) + offset
    for part in np.array_split(np.array(shuffle), 5):
        join.position_samples(grid[part], np.stack([3 * (grid[part] - offset), grid[part] - offset], 1))
    found = join.add([frame(k, t) for k, t in enumerate(times)])
    inside = [k for k, t in enumerate(times) if grid[0] <= t + offset <= grid[-1]]
    assert [f.index for f, _, _ in found] == inside
    for f, y, x in found:
        assert y == pytest.approx(3 * f.time, abs=1e-9)
        assert x == pytest.approx(f.time, abs=1e-9)


def test_by_time_a_frame_waits_for_the_sample_after_it_and_gaps_are_not_bridged() -> None:
    join = PositionJoin("time", max_gap_s=0.15)
    join.position_samples([1.0, 1.1], [(0, 0), (1, 2)])
    assert [(f.index, y, x) for f, y, x in join.add([frame(0, 1.05), frame(1, 1.15), frame(2, 0.5)])] == [(0, 0.5, 1.0)]
    assert (join.waiting, join.unmatched) == (1, 1)  # frame 2 came before the stage was sampled
    join.position_samples([1.2, 2.0], [(2, 4), (10, 20)])
    assert [(f.index, y) for f, y, _ in join.add([])] == [(1, pytest.approx(1.5))]
    assert join.add([frame(3, 1.6), frame(4), frame(5, 2.0)])[0][1:] == (10, 20)
    assert (join.waiting, join.unmatched) == (0, 3)  # in the gap; without a time


def arrivals(offset: float, rate: float, seed: int) -> tuple[list[SourceFrame], list[tuple[float, float]]]:
    """Frames at `rate`, by a clock `offset` behind the stage's, and triggered samples; both late by up to 8 ms."""
    rng = np.random.default_rng(seed)
    true = 1000.0 + np.arange(200) / rate
    late = rng.exponential(1e-3, (2, 200)).clip(0, 8e-3) + 2e-4
    frames = [frame(k, t - offset, arrived=t + late[0, k]) for k, t in enumerate(true)]
    return frames, [(t, t + late[1, k]) for k, t in enumerate(true)]


@pytest.mark.parametrize("offset", [1.0, -1.0, 3600.0])
@pytest.mark.parametrize("one_per_frame", [True, False])
def test_a_stage_clock_that_is_off_is_found_out(offset: float, one_per_frame: bool) -> None:
    frames, samples = arrivals(offset, 100.0, 1)
    lost = {17, 18, 90}
    join, found = PositionJoin("time", clock=ClockOffset(None), one_per_frame=one_per_frame), []
    for k, (stamp, arrived) in enumerate(samples):
        join.position_samples([stamp], [place(k)], arrived)
        found += join.add([frames[k]] if k not in lost else [])
    assert join.clock.seconds == pytest.approx(offset, abs=1e-6 if one_per_frame else 1e-3)
    assert join.clock.report()["uncertainty_s"] < 5e-3
    assert {f.index for f, _, _ in found} >= set(range(1, 199)) - lost
    error = max(abs(y - place(f.index)[0]) for f, y, _ in found)
    assert error < (1e-9 if one_per_frame else 0.2)  # a tenth of a step at 1 ms


def test_a_given_offset_that_is_wrong_shows() -> None:
    frames, samples = arrivals(1.0, 100.0, 2)
    join = PositionJoin("time", clock=ClockOffset(0.0))
    for k, (stamp, arrived) in enumerate(samples):
        join.position_samples([stamp], [place(k)], arrived)
        join.add([frames[k]])
    said = join.clock.report()
    assert (said["offset_s"], said["estimated"]) == (0.0, False)
    assert said["seen_s"] == pytest.approx(1.0, abs=1e-3)


def test_frames_with_a_position_need_no_other() -> None:
    assert PositionJoin().add([frame(0, position=(1.0, 2.0))])[0][1:] == (1.0, 2.0)


def test_a_detector_that_started_again_does_not_get_this_runs_positions_twice() -> None:
    join = PositionJoin()
    join.positions([0, 1], [place(0), place(1)])
    found = join.add([frame(0), frame(0, series=1), frame(1, series=1), frame(1)])
    assert [(f.series, f.index) for f, _, _ in found] == [(0, 0), (0, 1)]
    assert join.unmatched == 2


def test_waiting_is_bounded_and_numbers_may_start_at_one() -> None:
    join = PositionJoin(first_index=1, waiting_frames=3)
    join.positions([0], [place(0)])
    assert [f.index for f, _, _ in join.add([frame(k) for k in range(8)])] == [1]
    assert (join.waiting, join.unmatched) == (3, 4)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PositionJoin("arrival"), "by 'index' or by 'time'"),  # type: ignore[arg-type]
        (lambda: PositionJoin(max_gap_s=0), "max_gap_s 0"),
        (lambda: PositionJoin().position_samples([0], [(0, 0)]), "give positions"),
        (lambda: PositionJoin("time").positions([0], [(0, 0)]), "give position_samples"),
        (lambda: PositionJoin().positions([0, 1], [(0, 0)]), r"\(2,\) and yx of shape \(1, 2\)"),
        (lambda: ClockOffset(math.inf), "clock offset inf"),
    ],
)
def test_wrong_use_is_explained(make: object, text: str) -> None:
    with pytest.raises(SourceError, match=text):
        make()  # type: ignore[operator]


def test_positions_that_are_not_numbers_are_left_out() -> None:
    join = PositionJoin()
    join.positions([0, 1], [(math.nan, 0), (1, 1)])
    assert [f.index for f, _, _ in join.add([frame(0), frame(1)])] == [1]
    assert join.waiting == 1
