"""One pass from a detector's frame to a network's: against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.experiment import Orientation, PtychographyMetadata
from ptycho_bluesky.inference._binning import Binner
from ptycho_bluesky.inference._fitting import Fitting, window
from ptycho_bluesky.inference._gate import FrameGate, Refused


def plainly(frame: np.ndarray, fitting: Fitting, shift: tuple[int, int], way: Orientation) -> np.ndarray:
    turned = np.roll(way.apply(frame), shift, (0, 1))
    n, b = fitting.binned, fitting.binning
    return window(turned[: n * b, : n * b].reshape(1, n, b, n, b).sum(axis=(2, 4)), fitting.wanted)[0]


@given(
    given_size=st.integers(8, 40),
    binning=st.integers(1, 4),
    wanted=st.integers(2, 24),
    shift=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    way=st.builds(Orientation, transpose=st.booleans(), flip_rows=st.booleans(), flip_columns=st.booleans()),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=80)
def test_turning_rolling_binning_and_cropping_in_one_pass(given_size, binning, wanted, shift, way, seed):
    frame = np.random.default_rng(seed).integers(0, 999, (given_size, given_size)).astype(np.uint16)
    fitting = Fitting(given_size, wanted, binning)
    made, saturated, high = Binner(np.zeros(frame.shape, bool))(frame, fitting.places(shift, way))
    np.testing.assert_array_equal(made, plainly(frame.astype(np.float32), fitting, shift, way))
    assert (saturated, high) == (0, frame.max())


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_what_counts_nothing(dtype):
    frame = np.random.default_rng(0).integers(0, 90, (16, 16)).astype(dtype)
    frame[3, 4], frame[5, 6], frame[7, 8] = 100, 120, 99
    bad = np.zeros(frame.shape, bool)
    bad[9, 9] = True
    made, saturated, high = Binner(bad)(frame, Fitting(16, 16).places(), 99, 100)
    wanted = np.where(bad | (frame >= 99), 0, frame).astype(np.float32)
    np.testing.assert_array_equal(made, wanted)
    assert (saturated, high) == (2, wanted.max())


class Follower:
    """A predictor that has found the centre to be off."""

    fitting = Fitting(32, 16, 2)
    centre_shift = (3, -2)


def gate(**more) -> FrameGate:
    block = PtychographyMetadata(frames_key="f", position_keys=("y", "x"), position_unit="px", **more)
    return FrameGate(block, (32, 32))


def test_a_gate_that_follows_gives_frames_of_the_network_s_size():
    made, predictor = gate(orientation=Orientation(transpose=True, flip_columns=True)), Follower()
    raw = np.random.default_rng(1).integers(1, 50, (32, 32)).astype(np.uint16)
    whole = made.prepare(raw)
    assert whole.shape == (32, 32)
    made.follow(predictor)
    np.testing.assert_array_equal(made.prepare(raw), predictor.fitting.frames(whole[None], (-3, 2))[0])
    predictor.centre_shift = (0, 0)  # found anew
    np.testing.assert_array_equal(made.prepare(raw), predictor.fitting.frames(whole[None])[0])
    made.follow(object())  # one that does not say how
    np.testing.assert_array_equal(made.prepare(raw), whole)


@pytest.mark.parametrize("dtype", [">u2", "<u2", "<f2", ">f4"])
def test_frames_of_any_byte_order(dtype):
    raw = np.random.default_rng(2).integers(1, 50, (32, 32))
    np.testing.assert_array_equal(gate().prepare(raw.astype(dtype)), raw.astype(np.float32))


def test_refusals_of_a_gate_that_follows():
    made = gate(saturation=1000)
    made.follow(Follower())
    frame = np.ones((32, 32), np.float32)
    for value, reason in ((np.nan, "not finite"), (np.inf, "not finite"), (-1, "negative")):
        frame[31, 31] = value  # also where the network does not look
        with pytest.raises(Refused, match=reason):
            made.prepare(frame)
    with pytest.raises(Refused, match="saturated"):
        made.prepare(np.full((32, 32), 1000, np.uint16))
    with pytest.raises(Refused, match="all zero"):
        made.prepare(np.zeros((32, 32), np.uint16))
    few = np.ones((32, 32), np.uint16)
    few[16, 16] = 2000
    assert made.prepare(few).sum() < few.sum()
    assert made.saturated_share == pytest.approx(1 / 1024)
