"""A scan in progress is reconstructed while its frames arrive; nothing hangs when they stop."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import DatasetError, ReconstructionError
from ptycho_bluesky.reconstruction import AutoEngine, AutoOptions, FastEngine, FastOptions, GrowingDataset, reconstruct
from ptycho_bluesky.reconstruction._growing import ChainedFrames, follow
from ptycho_bluesky.reconstruction.engines._anneal import fast_epochs

QUICK = {"modes": 1, "threads": 1, "epochs": 10}


def growing(star, **more) -> GrowingDataset:
    return GrowingDataset(star.dataset.subset(slice(0, 0)), **more)


def feed(target: GrowingDataset, star, piece: int, pause_s: float) -> None:
    for first in range(0, len(star.dataset), piece):
        chosen = slice(first, first + piece)
        target.append(star.dataset.frames[chosen], star.dataset.positions[chosen])
        time.sleep(pause_s)
    target.finish()


def test_frames_that_arrive_during_the_iteration_are_all_used(star):
    target, counts = growing(star), []
    source = threading.Thread(target=feed, args=(target, star, 20, 0.05))
    source.start()
    result = reconstruct(target, "fast", QUICK, on_state=lambda state: counts.append(len(state.problem)))
    source.join()
    assert counts[0] < counts[-1] == len(star.dataset)
    assert counts == sorted(counts) and len(result.positions) == len(star.dataset)
    assert len(result.errors) == result.provenance["epochs"] == len(counts)
    complete = reconstruct(star.dataset, "fast", QUICK)
    assert result.r_factor < 1.02 * complete.r_factor
    assert star.correlation(result) > 0.9


def test_a_source_that_falls_silent_ends_the_wait(star):
    target = growing(star, patience_s=0.3)
    target.append(star.dataset.frames[:60], star.dataset.positions[:60])
    result = reconstruct(target, "fast", {**QUICK, "epochs": 2})
    assert len(result.positions) == 60 and result.parameters["epochs"] == 2


def test_no_frame_at_all_is_said(star):
    target = growing(star)
    target.finish()
    with pytest.raises(ReconstructionError, match=r"no frame has arrived; check that the source"):
        reconstruct(target, "fast", QUICK)


def test_a_stop_keeps_what_there_is_while_the_scan_goes_on(star):
    target = growing(star)
    target.append(star.dataset.frames[:80], star.dataset.positions[:80])
    result = reconstruct(target, "fast", QUICK, should_stop=lambda: True)
    assert result.provenance["stopped_early"] == "asked to stop" and len(result.positions) == 80


def test_what_does_not_fit_is_refused_and_harms_nothing(star):
    target = growing(star)
    with pytest.raises(DatasetError, match=r"allowed is \(n, 64, 64\)"):
        target.append(np.ones((2, 32, 32)), np.zeros((2, 2)))
    with pytest.raises(DatasetError, match=r"allowed is \(3, 2\), all finite"):
        target.append(np.ones((3, 64, 64)), np.full((3, 2), np.nan))
    target.finish()
    with pytest.raises(DatasetError, match="the scan is over"):
        target.append(np.ones((1, 64, 64)), np.zeros((1, 2)))
    assert len(target) == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=5),
    st.integers(-3, 30),
    st.integers(-3, 30),
    st.integers(1, 3),
)
def test_chained_frames_are_sliced_like_one_array(counts, start, stop, step):
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 9, (n, 2, 2)) for n in counts]
    chained, whole = ChainedFrames(parts), np.concatenate(parts)
    assert chained.shape == whole.shape
    np.testing.assert_array_equal(chained[start:stop:step], whole[start:stop:step])


def test_frames_of_two_shapes_are_no_chain(star):
    with pytest.raises(DatasetError, match="cannot be put together"):
        ChainedFrames([np.ones((1, 2, 2)), np.ones((1, 3, 3))])


def test_timestamps_do_not_hinder_growth(star):
    dated = replace(star.dataset, timestamps=np.arange(float(len(star.dataset))))
    target = GrowingDataset(dated)
    target.append(star.dataset.frames[:1], star.dataset.positions[:1])
    assert len(target.snapshot().validate()) == len(star.dataset) + 1


def test_the_pass_after_the_scan_is_short_where_most_frames_were_seen_often(star):
    few, most = star.dataset.subset(slice(0, 40)), len(star.dataset)
    engine = FastEngine()

    def last_pass(seen: int) -> list[int]:
        target = GrowingDataset(few)
        states = follow(engine, target, FastOptions(modes=1, threads=1))
        for state in states:
            if state.epoch == 2:
                target.append(star.dataset.frames[40:seen], star.dataset.positions[40:seen])
            if state.epoch == 24:
                target.append(star.dataset.frames[seen:], star.dataset.positions[seen:])
                target.finish()
            if state.epochs:
                return [state.epoch, state.epochs]
        raise AssertionError("no state of the last pass")

    first, end = last_pass(most * 3 // 4)
    assert end - first + 1 == fast_epochs(most) // 2
    first, end = last_pass(41)
    assert end - first + 1 == fast_epochs(most)


def test_what_a_user_asks_for_is_not_cut_short():
    asked = FastOptions(epochs=40)
    assert FastEngine().from_near(asked, 500) is asked
    assert AutoEngine().from_near(AutoOptions(epochs=40), 500).polish_epochs is None
    assert AutoEngine().from_near(AutoOptions(), 500).model_dump(exclude_unset=True) == {
        "epochs": 20, "step": 0.3, "polish_epochs": 20,
    }  # fmt: skip


def test_a_mask_may_grow_with_the_scan(star):
    target, late = growing(star), np.zeros(star.dataset.frame_shape, bool)
    target.append(star.dataset.frames[:60], star.dataset.positions[:60])
    late[3, 4] = True
    target.append(star.dataset.frames[60:70], star.dataset.positions[60:70], late)
    mask = target.snapshot().validate().mask
    assert mask is not None and mask.sum() == 1 and mask[3, 4]
