"""Numbers of frames: every fault is counted once, and under its own name."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from ptycho_bluesky.stream.sources import IndexCheck, SourceCounts


def check(
    numbers: list[int], times: list[float] | None = None, window: int = 1024
) -> tuple[list[int], SourceCounts, int]:
    counts = SourceCounts()
    follow = IndexCheck(counts, window)
    stamps = times or [math.nan] * len(numbers)
    taken = [n for n, t in zip(numbers, stamps, strict=True) if follow.accept(n, t)]
    return taken, counts, follow.series


@given(
    sent=st.sets(st.integers(0, 300), min_size=1),
    repeated=st.lists(st.integers(0, 300), max_size=30),
    seed=st.integers(0, 2**32 - 1),
    timed=st.booleans(),
)
def test_whatever_is_lost_shuffled_or_doubled_is_counted(
    sent: set[int], repeated: list[int], seed: int, timed: bool
) -> None:
    chance = random.Random(seed)
    numbers = [*sent, *(n for n in repeated if n in sent)]
    numbers.sort(key=lambda n: n + chance.uniform(0, 40))
    times = [float(n) for n in numbers] if timed else None
    taken, counts, series = check(numbers, times)
    assert sorted(taken) == sorted(sent)
    assert series == 0
    assert counts.repeated == len(numbers) - len(sent)
    assert counts.dropped == max(sent) - min(sent) + 1 - len(sent)
    newest = -1
    late = 0
    for n in taken:
        late, newest = late + (n < newest), max(n, newest)
    assert counts.reordered == late


@given(first=st.integers(1, 60), second=st.integers(1, 60), start=st.integers(0, 3))
def test_a_newer_time_stamp_tells_a_restart_from_a_repetition(first: int, second: int, start: int) -> None:
    numbers = [*range(start, start + first), *range(start, start + second)]
    taken, counts, series = check(numbers, [float(k) for k in range(len(numbers))])
    assert taken == numbers
    assert (series, counts.restarts, counts.repeated, counts.dropped) == (1, 1, 0, 0)


def test_a_frame_sent_twice_with_two_stamps_is_no_restart_but_two_in_a_row_are() -> None:
    times = [float(k) for k in range(8)]
    assert check([0, 1, 2, 3, 2, 4, 5, 6], times)[0] == [0, 1, 2, 3, 4, 5, 6]
    taken, counts, series = check([0, 1, 2, 3, 4, 1, 2, 3], times)  # again from 0, but 0 was lost
    assert (taken, counts.repeated, series) == ([0, 1, 2, 3, 4, 2, 3], 1, 1)


def test_without_time_stamps_a_lost_connection_tells() -> None:
    counts = SourceCounts()
    follow = IndexCheck(counts)
    assert [follow.accept(n) for n in (0, 1, 2, 1)] == [True, True, True, False]
    follow.lost_touch()
    assert not follow.accept(2)  # the last value again, as a monitor sends it
    follow.lost_touch()
    assert [follow.accept(n) for n in (0, 1)] == [True, True]
    assert (follow.series, counts.restarts, counts.repeated) == (1, 1, 2)


def test_far_back_is_a_new_beginning_and_a_jump_is_a_gap() -> None:
    taken, counts, series = check([0, 1, 2000, 2001, 0, 1], window=1000)
    assert taken == [0, 1, 2000, 2001, 0, 1]
    assert (counts.dropped, counts.restarts, series) == (1998, 1, 1)


def test_a_series_that_is_announced_starts_at_its_first_number() -> None:
    counts = SourceCounts()
    follow = IndexCheck(counts)
    follow.begin(0)
    follow.begin(0)  # announced twice
    assert follow.series == 0
    follow.accept(3)
    assert counts.dropped == 3
    follow.begin(0)
    follow.accept(0)
    assert (follow.series, counts.restarts, counts.dropped) == (1, 1, 3)


def test_damage_is_counted_by_reason() -> None:
    counts = SourceCounts()
    for reason in ("short", "short", "codec"):
        counts.damage(reason)
    assert counts.to_dict()["damaged"] == {"short": 2, "codec": 1}
