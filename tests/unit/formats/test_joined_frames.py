from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import Orientation
from ptycho_bluesky.formats import FrameView, Hdf5Frames, JoinedFrames

LENGTHS = (3, 1, 4, 2)
FRAMES = np.random.default_rng(0).integers(0, 1000, (sum(LENGTHS), 8, 9)).astype(np.uint16)


@pytest.fixture
def joined(tmp_path: Path) -> JoinedFrames:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number, part in enumerate(np.split(FRAMES, np.cumsum(LENGTHS)[:-1])):
            file[str(number)] = part
    return JoinedFrames([Hdf5Frames(tmp_path / "a.h5", str(number)) for number in range(len(LENGTHS))])


bounds = st.none() | st.integers(-12, 12)


@given(slices=st.lists(st.builds(slice, bounds, bounds, bounds.filter(lambda step: step != 0)), min_size=20))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_slices_are_those_of_an_array(joined: JoinedFrames, slices: list[slice]) -> None:
    for index in slices:
        np.testing.assert_array_equal(joined[index], FRAMES[index])
        assert joined[index].shape == FRAMES[index].shape


def test_single_frames(joined: JoinedFrames) -> None:
    for number in range(-10, 10):
        np.testing.assert_array_equal(joined[number], FRAMES[number])
    for number in (-11, 10):
        with pytest.raises(IndexError, match=f"frame {number} of 10"):
            joined[number]


@pytest.mark.parametrize("count", [1, 3, 4, 6, 10])
def test_view_and_count(joined: JoinedFrames, count: int) -> None:
    view = FrameView((8, 9), Orientation(transpose=True, flip_rows=True), window=(1, 0, 8))
    with joined.viewed(view, count) as seen:
        assert seen.shape == (count, 8, 8)
        np.testing.assert_array_equal(np.asarray(seen), view.apply(FRAMES)[:count])


def test_as_an_array(joined: JoinedFrames) -> None:
    assert (len(joined), joined.shape, joined.dtype) == (10, FRAMES.shape, np.uint16)
    np.testing.assert_array_equal(np.asarray(joined, np.float32), FRAMES)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(joined, copy=False)
    assert "4 parts" in repr(joined)


def test_parts_must_agree(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"] = np.zeros((1, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint16)
    with pytest.raises(FormatError, match="b holds uint16 frames"):
        JoinedFrames([Hdf5Frames(tmp_path / "a.h5", key) for key in "ab"])
