"""The quirks of detectors, and where the beam meets them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.stream.simulators import simulated_patterns
from ptycho_bluesky.stream.sources import DamagedFrame, DetectorOptions, DetectorPipeline, find_centre


def prepared(pixels: np.ndarray, bad: np.ndarray | None = None, **options: object) -> np.ndarray:
    return DetectorPipeline(DetectorOptions(**options), pixels.shape, bad)(pixels)  # type: ignore[arg-type]


@given(
    binning=st.sampled_from([1, 2, 3, 4]),
    half=st.integers(1, 3),
    row=st.integers(20, 30),
    column=st.integers(25, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_no_count_is_lost_and_the_beam_is_in_the_middle(
    binning: int, half: int, row: int, column: int, seed: int
) -> None:
    frame = np.random.default_rng(seed).poisson(3, (50, 64)).astype(np.uint16)
    frame[row, column] = 60_000
    crop = 2 * half * binning
    got = prepared(frame, centre_px=(row + (binning - 1) / 2, column + (binning - 1) / 2), crop_px=crop, bin=binning)
    top, left = row - half * binning, column - half * binning
    assert got.shape == (2 * half, 2 * half)
    assert got.sum() == frame[top : top + crop, left : left + crop].sum()
    assert np.unravel_index(got.argmax(), got.shape) == (half, half)


def test_without_a_centre_the_middle_is_the_middle() -> None:
    frame = np.arange(64, dtype=np.uint32).reshape(8, 8)
    np.testing.assert_array_equal(prepared(frame), frame)
    np.testing.assert_array_equal(prepared(frame, crop_px=4), frame[2:6, 2:6])
    np.testing.assert_array_equal(prepared(frame, crop_px=8, bin=4), prepared(frame, bin=4))
    assert prepared(frame, bin=4)[0, 0] == frame[:4, :4].sum()


@pytest.mark.parametrize(
    ("dtype", "mark", "options", "left"),
    [
        ("uint16", 65535, {}, 0),
        ("uint32", 2**32 - 1, {}, 0),
        ("uint32", 65535, {}, 65535),
        ("uint32", 65535, {"bits": 16}, 0),
        ("uint8", 255, {}, 255),
        ("uint8", 255, {"bits": 8}, 0),
        ("uint16", 65535, {"saturation": 65535, "max_saturated": 1.0}, 0),
        ("int32", -2, {}, 0),
        ("float32", np.nan, {}, 0),
    ],
)
def test_marks_of_gaps_and_dead_pixels(dtype: str, mark: float, options: dict[str, object], left: int) -> None:
    frame = np.ones((8, 8), dtype)
    frame[3, 4] = mark
    got = prepared(frame, **options)
    assert got[3, 4] == left
    assert got.sum() == 63 + left


def test_saturation_is_cut_out_or_refused() -> None:
    frame = np.ones((10, 10), np.uint16)
    frame[0, 0] = 1000
    assert prepared(frame, saturation=1000).sum() == 99
    frame[0, :2] = 1000
    with pytest.raises(DamagedFrame, match="saturated"):
        prepared(frame, saturation=1000)


def test_the_mask_follows_the_frame() -> None:
    bad = np.zeros((12, 12), bool)
    bad[4, 5] = True
    pipeline = DetectorPipeline(DetectorOptions(crop_px=8, bin=2), (12, 12), bad)
    got = pipeline(np.ones((12, 12), np.uint16))
    assert pipeline.shape == got.shape == (4, 4)
    assert pipeline.mask is not None
    assert got[pipeline.mask].tolist() == [3.0]
    assert got.sum() == 63


@pytest.mark.parametrize("pixels", [np.ones((8, 9), np.uint16), np.ones((10, 10), bool), np.ones((10, 10), complex)])
def test_what_is_no_frame_of_this_detector_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(DamagedFrame, match="instead of"):
        DetectorPipeline(DetectorOptions(), (10, 10))(pixels)


def test_all_faults_of_the_options_come_at_once() -> None:
    with pytest.raises(DatasetError, match=r"\(3 faults\).*mask has shape \(4, 4\).*7 rows cannot.*columns.*give crop"):
        DetectorPipeline(DetectorOptions(bin=2), (7, 9), np.zeros((4, 4), bool))
    with pytest.raises(DatasetError, match="12 rows about row 3 leave the frame's 16"):
        DetectorPipeline(DetectorOptions(centre_px=(3, 8), crop_px=12), (16, 16))
    with pytest.raises(DatasetError, match="no crop_px"):
        DetectorPipeline(DetectorOptions(centre_px=(3, 8)), (16, 16))
    with pytest.raises(DatasetError, match="every pixel is bad"):
        DetectorPipeline(DetectorOptions(), (4, 4), np.ones((4, 4), bool))


@pytest.mark.parametrize("shift", [(0, 0), (7, -12), (-3, 5)])
def test_the_centre_is_found_from_frames(shift: tuple[int, int]) -> None:
    frames = [np.roll(frame, shift, (0, 1)) for frame in simulated_patterns(8, 64)]
    gap = np.s_[:, 30:33]
    for frame in frames:
        frame[gap] = 65535  # a gap of the detector, beside or across the beam
        frame[3, 3] = 50_000  # a hot pixel
    found = DetectorPipeline(DetectorOptions(crop_px=32), (64, 64)).find_centre(frames)
    centre = found.options.centre_px
    assert centre is not None
    assert np.abs(np.subtract(centre, (32 + shift[0], 32 + shift[1]))).max() < 1.0
    assert found(frames[0]).shape == (32, 32)


def test_a_centre_that_cannot_be_found_is_explained() -> None:
    with pytest.raises(DatasetError, match="no light"):
        find_centre(np.zeros((16, 16)))
    half = np.zeros((16, 16))
    half[:, :8] = 1
    with pytest.raises(DatasetError, match="reaches the frame's border"):
        find_centre(half)
    single = np.zeros((16, 16))
    single[8, 8] = 9
    with pytest.raises(DatasetError, match="bright"):
        find_centre(single)
    with pytest.raises(DatasetError, match="of the same shape"):
        find_centre(half, np.zeros((4, 4), bool))
    with pytest.raises(DatasetError, match="there are none"):
        DetectorPipeline(DetectorOptions(), (8, 8)).find_centre([])
