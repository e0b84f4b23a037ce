from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from ptycho_bluesky.experiment import Orientation, orientations

frames = arrays(
    np.int32, st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 99)
)
FRAME = np.arange(12).reshape(1, 3, 4)
SQUARE = np.arange(9).reshape(3, 3)


@given(frames=frames, orientation=st.sampled_from(orientations()))
def test_undo_is_the_inverse_of_apply(frames: np.ndarray, orientation: Orientation) -> None:
    np.testing.assert_array_equal(orientation.undo(orientation.apply(frames)), frames)
    np.testing.assert_array_equal(orientation.apply(orientation.undo(frames)), frames)


@given(frames=frames, orientation=st.sampled_from(orientations()))
def test_shape_tells_what_apply_gives(frames: np.ndarray, orientation: Orientation) -> None:
    assert orientation.apply(frames).shape[1:] == orientation.shape((frames.shape[1], frames.shape[2]))


def test_there_are_eight_and_they_form_a_group() -> None:
    images = {orientation.apply(SQUARE).tobytes(): orientation for orientation in orientations()}
    assert len(images) == 8
    for a, b in itertools.product(orientations(), repeat=2):
        assert a.apply(b.apply(SQUARE)).tobytes() in images
    for orientation in orientations():
        assert orientation.undo(SQUARE).tobytes() in images


def test_the_identity_is_first() -> None:
    assert orientations()[0] == Orientation()
    np.testing.assert_array_equal(Orientation().apply(FRAME), FRAME)


def test_transpose_comes_before_the_flips() -> None:
    seen = Orientation(transpose=True, flip_rows=True).apply(FRAME)[0]
    np.testing.assert_array_equal(seen, FRAME[0].T[::-1])


def test_apply_copies_nothing() -> None:
    for orientation in orientations():
        assert np.shares_memory(orientation.apply(FRAME), FRAME)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="rotate"):
        Orientation.model_validate({"rotate": 90})
