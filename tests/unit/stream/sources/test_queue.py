"""What happens to frames that are not read in time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from pydantic import ValidationError

from ptycho_bluesky.stream.sources import BackPressure, SourceEnded, SourceFrame
from ptycho_bluesky.stream.sources._queue import FrameQueue


def frame(index: int) -> SourceFrame:
    return SourceFrame(index, 0.0, np.zeros((10, 100), np.uint8))


def queue(policy: str, frames: int) -> FrameQueue:
    return FrameQueue(BackPressure(policy=policy, capacity_mb=frames * 1e-3))


def test_block_waits_for_the_reader_and_loses_nothing() -> None:
    held, discarded = queue("block", 4), []
    writer = threading.Thread(target=lambda: discarded.extend(held.put(frame(k)) for k in range(20)))
    writer.start()
    got: list[int] = []
    while len(got) < 20:
        new = held.take(5.0)
        assert 0 < len(new) <= 4
        got += [f.index for f in new]
    writer.join(5)
    assert got == list(range(20))
    assert sum(discarded) == 0


def test_drop_oldest_keeps_the_newest() -> None:
    held = queue("drop-oldest", 4)
    assert sum(held.put(frame(k)) for k in range(20)) == 16
    assert [f.index for f in held.take(0)] == [16, 17, 18, 19]


def test_sample_keeps_a_thin_picture_of_the_whole() -> None:
    held = queue("sample", 8)
    discarded = sum(held.put(frame(k)) for k in range(200))
    kept = [f.index for f in held.take(0)]
    assert len(kept) + discarded == 200
    assert 4 <= len(kept) <= 8
    assert kept[0] == 0
    assert kept[-1] >= 160
    assert max(np.diff(kept)) <= 2 * min(np.diff(kept))
    assert held.put(frame(200)) + held.put(frame(201)) == 0  # the reader has caught up
    assert [f.index for f in held.take(0)] == [200, 201]


@pytest.mark.parametrize("policy", ["block", "drop-oldest", "sample"])
def test_one_frame_always_fits(policy: str) -> None:
    held = FrameQueue(BackPressure(policy=policy, capacity_mb=1e-6))
    assert held.put(frame(0)) == 0
    assert [f.index for f in held.take(0)] == [0]


def test_the_end_of_a_series_comes_after_its_frames() -> None:
    held = queue("drop-oldest", 4)
    for item in (frame(0), frame(1), SourceEnded("done"), frame(2)):
        held.put(item)
    assert [f.index for f in held.take(0)] == [0, 1]
    with pytest.raises(SourceEnded, match="done"):
        held.take(0)
    assert [f.index for f in held.take(0)] == [2]
    assert held.take(0) == []


def test_closing_wakes_who_waits() -> None:
    held = queue("block", 1)
    held.put(frame(0))
    waiting = [
        threading.Thread(target=held.put, args=(frame(1),)),
        threading.Thread(target=queue("block", 1).take, args=(0.01,)),
    ]
    for thread in waiting:
        thread.start()
    held.close()
    for thread in waiting:
        thread.join(5)
        assert not thread.is_alive()


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValidationError):
        BackPressure(policy="forget")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        BackPressure(capacity_mb=0)
