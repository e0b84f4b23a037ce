from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho_bluesky.errors import DatasetError, FormatError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.formats import load_dataset, read_reconstruction, save_dataset, write_reconstruction


def assert_same(a: Reconstruction, b: Reconstruction) -> None:
    for field in fields(Reconstruction):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        else:
            assert left == right, field.name


@pytest.fixture(params=["dataset", "reconstruction"])
def write(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Both writers, with something to write."""
    value: Any = request.getfixturevalue(request.param)
    writer: Any = save_dataset if request.param == "dataset" else write_reconstruction
    return lambda path: writer(path, value)


def test_a_missing_folder_is_named(write: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"out\.h5 was not written: the folder .*no does not exist; make it"):
        write(tmp_path / "no" / "out.h5")


def test_a_folder_is_not_replaced(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(FormatError, match="is a folder"):
        write(tmp_path / "sub")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "may not write"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failing_disk_leaves_the_old_file_and_nothing_else(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    path = tmp_path / "out.h5"
    path.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FormatError, match=words):
        write(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    """A process that may write 64 kB a file meets the same failing write as one on a full disk."""
    code = f"""
        import resource, signal
        import numpy as np
        from ptycho_bluesky.errors import FormatError
        from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
        from ptycho_bluesky.formats import save_dataset, write_reconstruction

        noise = np.random.default_rng(0).normal(size=(1, 256, 256)).astype(np.complex64)
        rec = Reconstruction(noise, noise, np.zeros((2, 2)), np.ones((256, 256), np.float32), (0.0, 0.0), None,
                             np.zeros(1), 0.1, 0.1, "rpie")
        dataset = PtychoDataset(np.abs(noise), np.zeros((1, 2)))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        for write, value in ((save_dataset, dataset), (write_reconstruction, rec)):
            try:
                write({str(tmp_path / "out")!r}, value)
            except FormatError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("out was not written: File too large") == 2
    assert not done.stderr
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(
    reconstruction: Reconstruction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_reconstruction(tmp_path / "out.h5", reconstruction)
    assert not list(tmp_path.iterdir())


def test_a_faulty_dataset_is_not_written(dataset: PtychoDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="70 frames but 3 positions"):
        save_dataset(tmp_path / "a.npz", replace(dataset, positions=dataset.positions[:3]))
    assert not list(tmp_path.iterdir())


def test_what_json_cannot_hold_is_refused(
    dataset: PtychoDataset, reconstruction: Reconstruction, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match="source holds what JSON cannot"):
        save_dataset(tmp_path / "a.npz", replace(dataset, source={"a": np.zeros(2)}))
    with pytest.raises(FormatError, match="parameters holds what JSON cannot"):
        write_reconstruction(tmp_path / "a.h5", replace(reconstruction, parameters={"a": {1, 2}}))
    assert not list(tmp_path.iterdir())


class TestReconstruction:
    @pytest.mark.parametrize("pixel", [None, 1.25e-8])
    def test_nothing_is_lost(self, reconstruction: Reconstruction, tmp_path: Path, pixel: float | None) -> None:
        given = replace(reconstruction, pixel_size_m=pixel, modality="near-field")
        write_reconstruction(tmp_path / "a.h5", given)
        assert_same(read_reconstruction(tmp_path / "a.h5"), given)

    def test_an_older_file_is_replaced(self, reconstruction: Reconstruction, tmp_path: Path) -> None:
        write_reconstruction(tmp_path / "a.h5", reconstruction)
        write_reconstruction(tmp_path / "a.h5", replace(reconstruction, engine="lsqml"))
        assert read_reconstruction(tmp_path / "a.h5").engine == "lsqml"
        assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]

    def test_a_nexus_viewer_finds_the_phase(self, reconstruction: Reconstruction, tmp_path: Path) -> None:
        write_reconstruction(tmp_path / "a.h5", reconstruction)
        with h5py.File(tmp_path / "a.h5") as file:
            data = file[file.attrs["default"]][file["entry"].attrs["default"]]
            assert data.attrs["NX_class"] == "NXdata"
            signal = data[data.attrs["signal"]]
            assert signal.shape == tuple(len(data[axis]) for axis in data.attrs["axes"])
            assert data["x"][1] - data["x"][0] == pytest.approx(1.25e-8)
            np.testing.assert_array_equal(signal[()], reconstruction.phase)

    def test_a_measurement_is_no_reconstruction(self, cxi: Callable[..., Path]) -> None:
        with pytest.raises(FormatError, match=r"scan\.cxi is no reconstruction but a measurement.*load_dataset"):
            read_reconstruction(cxi())

    def test_a_reconstruction_is_no_measurement(self, reconstruction: Reconstruction, tmp_path: Path) -> None:
        write_reconstruction(tmp_path / "a.h5", reconstruction)
        with pytest.raises(FormatError, match=r"a\.h5 holds a result .*read_reconstruction"):
            load_dataset(tmp_path / "a.h5")

    def test_another_kind_of_file_is_refused(self, npz: Callable[..., Path], tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="is no reconstruction but a measurement"):
            read_reconstruction(npz())
        with pytest.raises(FormatError, match="does not exist"):
            read_reconstruction(tmp_path / "no.h5")

    def test_a_later_layout_is_refused(self, reconstruction: Reconstruction, tmp_path: Path) -> None:
        write_reconstruction(tmp_path / "a.h5", reconstruction)
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            file.attrs["version"] = 3
        with pytest.raises(FormatError, match="version 3; this release reads 1 to 2"):
            read_reconstruction(tmp_path / "a.h5")

    @pytest.mark.parametrize("lost", ["object", "errors", "provenance"])
    def test_a_lost_part_is_told(self, reconstruction: Reconstruction, tmp_path: Path, lost: str) -> None:
        write_reconstruction(tmp_path / "a.h5", reconstruction)
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            del file["entry"][lost]
        with pytest.raises(FormatError, match="damaged"):
            read_reconstruction(tmp_path / "a.h5")

    def test_parts_that_do_not_fit_are_told(self, reconstruction: Reconstruction, tmp_path: Path) -> None:
        write_reconstruction(tmp_path / "a.h5", replace(reconstruction, coverage=np.ones((40, 50), np.float32)))
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            del file["entry/coverage"]
            file["entry/coverage"] = np.ones((3, 3), np.float32)
        with pytest.raises(FormatError, match=r"object is \(40, 50\) but coverage \(3, 3\)"):
            read_reconstruction(tmp_path / "a.h5")

    def test_a_truncated_file_is_told(self, reconstruction: Reconstruction, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        write_reconstruction(path, reconstruction)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(FormatError, match="truncated"):
            read_reconstruction(path)
