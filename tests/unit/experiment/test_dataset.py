from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import Geometry, PtychoDataset

NEAR = Geometry(energy_kev=9, distance_m=1, detector_pixel_m=1e-6, modality="near-field")
FAR = Geometry(energy_kev=9, distance_m=1, detector_pixel_m=1e-4)


def make(**changes: Any) -> PtychoDataset:
    values: dict[str, Any] = {"frames": np.ones((5, 8, 8)), "positions": np.arange(10.0).reshape(5, 2)}
    return PtychoDataset(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"frames": np.ones((8, 8))}, r"shape \(8, 8\); allowed is \(N, H, W\)"),
        ({"frames": np.ones((0, 8, 8)), "positions": np.ones((0, 2))}, "no frame"),
        ({"frames": np.ones((5, 8, 9))}, "8 x 9 pixels; they must be square"),
        ({"frames": np.ones((5, 4, 4))}, "8 x 8 or larger"),
        ({"positions": np.ones((5, 3))}, r"allowed is \(N, 2\)"),
        ({"positions": np.ones((4, 2))}, "5 frames but 4 positions"),
        ({"positions": np.array([[np.nan, 0]] + [[1.0, np.inf]] * 2 + [[0, 0]] * 2)}, "3 positions are not finite"),
        ({"mask": np.zeros((4, 4), bool)}, r"mask has shape \(4, 4\)"),
        ({"mask": np.ones((8, 8), bool)}, "every pixel bad"),
        ({"probe": np.ones((8, 8), np.complex64)}, r"allowed is \(modes, 8, 8\)"),
        ({"probe": np.ones((0, 8, 8), np.complex64)}, r"allowed is \(modes, 8, 8\)"),
        ({"pixel_size_m": 0.0}, "above 0"),
        ({"pixel_size_m": np.nan}, "above 0"),
        ({"timestamps": np.zeros(4)}, r"timestamps have shape \(4,\)"),
        ({"modality": "near-field"}, "near field needs a geometry"),
        ({"modality": "near-field", "geometry": FAR}, "near field needs a geometry"),
        ({"modality": "far-field", "geometry": NEAR}, "far field but its geometry has modality 'near-field'"),
    ],
)
def test_each_fault_is_told(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DatasetError, match=text):
        make(**changes).validate()


def test_all_faults_come_in_one_text_with_the_name() -> None:
    with pytest.raises(DatasetError, match=r"dataset scan 7 \(2 faults\): 5 frames but 4.*; the mask"):
        make(name="scan 7", positions=np.ones((4, 2)), mask=np.zeros((2, 2), bool)).validate()


def test_a_good_one_has_no_fault() -> None:
    dataset = make(geometry=NEAR, modality="near-field", pixel_size_m=1e-6)
    assert dataset.faults() == []
    assert dataset.validate() is dataset
    assert len(dataset) == 5
    assert dataset.frame_shape == (8, 8)


@given(
    positions=arrays(np.float64, (7, 2), elements=st.floats(-300, 300)),
    pixel=st.sampled_from([None, 1e-8, 3.3e-7]),
    margin=st.integers(0, 20),
)
def test_every_patch_lies_inside_the_grid(positions: np.ndarray, pixel: float | None, margin: int) -> None:
    scale = pixel or 1.0
    dataset = make(frames=np.ones((7, 8, 8)), positions=positions * scale, pixel_size_m=pixel)
    grid = dataset.object_grid(margin)
    assert grid.pixel_size == scale
    # The formula of the house: corner = (position - origin) / pixel size.
    np.testing.assert_allclose(grid.corners, (dataset.positions - np.array(grid.origin)) / scale, atol=1e-6)
    assert grid.corners.min() >= margin - 1e-6
    assert (grid.corners + 8 + margin <= np.array(grid.shape) + 1 + 1e-6).all()
    np.testing.assert_allclose(np.ptp(grid.corners, axis=0), np.ptp(positions, axis=0), atol=1e-6)


def test_positions_in_a_wrong_unit_are_found_before_memory_is_taken() -> None:
    with pytest.raises(DatasetError, match=r"object pixels of 1e-08.*check the unit"):
        make(pixel_size_m=1e-8).object_grid()


def test_a_larger_row_coordinate_reads_further_down() -> None:
    corners = make(positions=np.array([[0, 0], [3, 0], [0, 5], [1, 1], [2, 2.5]])).object_grid(2).corners
    np.testing.assert_array_equal(corners[:3], [[2, 2], [5, 2], [2, 7]])


@pytest.mark.parametrize("size", [1, 2, 64])
def test_batches_cover_all_frames_once(size: int) -> None:
    dataset = make(frames=np.arange(5 * 64).reshape(5, 8, 8))
    seen = list(dataset.batches(size))
    assert max(len(frames) for _, frames in seen) <= size
    np.testing.assert_array_equal(np.concatenate([frames for _, frames in seen]), dataset.frames)
    assert [chosen.start for chosen, _ in seen] == list(range(0, 5, size))


@pytest.mark.parametrize(
    "index", [slice(1, 4), slice(None, None, 2), np.array([3, 0, 4]), np.arange(5) % 2 == 0, slice(2, 2)]
)
def test_a_subset_keeps_frames_positions_and_times_together(index: Any) -> None:
    dataset = make(frames=np.arange(5 * 64).reshape(5, 8, 8), timestamps=np.arange(5.0))
    part = dataset.subset(index)
    np.testing.assert_array_equal(part.frames, np.asarray(dataset.frames)[index])
    np.testing.assert_array_equal(part.positions, dataset.positions[index])
    assert part.timestamps is not None
    np.testing.assert_array_equal(part.timestamps, np.arange(5.0)[index])


def test_a_subset_of_files_reads_only_what_it_needs() -> None:
    class Stored:
        shape, dtype = (5, 8, 8), np.dtype(np.uint16)

        def __init__(self) -> None:
            self.reads: list[slice] = []

        def __getitem__(self, index: slice) -> np.ndarray:
            self.reads.append(index)
            return np.ones(self.shape, self.dtype)[index]

    stored = Stored()
    assert make(frames=stored).subset(slice(1, 3)).frames.shape == (2, 8, 8)
    assert make(frames=stored).subset(np.array([2, 4])).frames.shape == (2, 8, 8)
    assert stored.reads == [slice(1, 3), slice(2, 5)]


def test_frames_that_cannot_be_used_are_found() -> None:
    frames = np.ones((5, 8, 8))
    frames[1], frames[2, 0, 0], frames[3, 4, 4] = 0, np.nan, -1
    assert make(frames=frames).finite_frames().tolist() == [True, False, False, False, True]
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[4, 4] = True
    assert replace(make(frames=frames), mask=mask).finite_frames().tolist() == [True, False, True, True, True]
