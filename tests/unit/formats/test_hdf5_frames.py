from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho_bluesky.experiment import Orientation
from ptycho_bluesky.formats import FrameView, Hdf5Frames


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, np.ndarray]:
    values = np.random.default_rng(0).integers(0, 1000, (9, 10, 12)).astype(np.uint16)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = values
    return tmp_path / "scan.h5", values


@pytest.mark.parametrize(
    "index",
    [
        slice(None),
        slice(2, 5),
        slice(-3, None),
        slice(0, 9, 4),
        slice(None, None, -1),
        slice(7, 1, -3),
        slice(4, 4),
        slice(3, 99),
    ],
)
def test_slices_are_those_of_an_array(stored: tuple[Path, np.ndarray], index: slice) -> None:
    with Hdf5Frames(stored[0], "data") as frames:
        np.testing.assert_array_equal(frames[index], stored[1][index])
        assert frames[index].dtype == frames.dtype == np.uint16


def test_single_frames(stored: tuple[Path, np.ndarray]) -> None:
    with Hdf5Frames(stored[0], "data") as frames:
        np.testing.assert_array_equal(frames[3], stored[1][3])
        np.testing.assert_array_equal(frames[-1], stored[1][-1])
        with pytest.raises(IndexError, match="frame 9 of 9"):
            frames[9]
        with pytest.raises(TypeError):
            frames[1.5]  # type: ignore[index]


def test_view_and_count(stored: tuple[Path, np.ndarray]) -> None:
    view = FrameView((10, 12), Orientation(transpose=True), window=(2, 1, 8))
    with Hdf5Frames(stored[0], "data", view, count=4) as frames:
        assert frames.shape == (4, 8, 8)
        assert len(frames) == 4
        np.testing.assert_array_equal(frames[:], stored[1][:4].swapaxes(1, 2)[:, 2:10, 1:9])


def test_only_the_slice_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "big.h5", "w") as file:  # 200 GB that were never written
        file.create_dataset("data", (100_000, 1024, 1024), "u2", chunks=(1, 1024, 1024))
    with Hdf5Frames(tmp_path / "big.h5", "data") as frames:
        assert frames[99_990:99_992].shape == (2, 1024, 1024)


def test_a_pickled_copy_opens_the_file_itself(stored: tuple[Path, np.ndarray]) -> None:
    with Hdf5Frames(stored[0], "data") as frames:
        copy = pickle.loads(pickle.dumps(frames))
    np.testing.assert_array_equal(copy[1:3], stored[1][1:3])
    copy.close()


def test_a_closed_one_opens_again(stored: tuple[Path, np.ndarray]) -> None:
    frames = Hdf5Frames(stored[0], "data")
    frames.close()
    frames.close()
    np.testing.assert_array_equal(np.asarray(frames), stored[1])
    frames.close()


def test_the_folder_may_change_under_a_relative_path(
    stored: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stored[0].parent)
    frames = Hdf5Frames("scan.h5", "data")
    frames.close()
    monkeypatch.chdir("/")
    assert frames[0].shape == (10, 12)
    frames.close()


def test_threads_may_share_it(stored: tuple[Path, np.ndarray]) -> None:
    wrong = []
    with Hdf5Frames(stored[0], "data") as frames:

        def read(number: int) -> None:
            for _ in range(20):
                if not (frames[number] == stored[1][number]).all():
                    wrong.append(number)

        threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert not wrong


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # what is tested is a child of such a process
def test_a_forked_child_opens_its_own(stored: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    with Hdf5Frames(stored[0], "data") as frames:
        assert frames[0].shape == (10, 12)
        child = os.fork()
        if child == 0:
            good = (frames[5] == stored[1][5]).all()
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_array_equal(frames[6], stored[1][6])


def test_frames_come_in_the_byte_order_of_the_machine(tmp_path: Path) -> None:
    values = np.arange(2 * 8 * 8).reshape(2, 8, 8)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = values.astype(">u2")
    with Hdf5Frames(tmp_path / "scan.h5", "data") as frames:
        assert frames.dtype.isnative
        assert frames[:].dtype.isnative
        np.testing.assert_array_equal(frames[:], values)
