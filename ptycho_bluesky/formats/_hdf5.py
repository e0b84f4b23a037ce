"""HDF5 files: as a source of frames, read slice by slice and never whole, and written whole or not at all."""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers bitshuffle, LZ4, Blosc and Zstandard, which detectors write
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.formats._files import replaced_when_whole
from ptycho_bluesky.formats._view import FrameView

__all__ = ["Hdf5Frames", "new_hdf5", "open_hdf5", "write_frames"]


def open_hdf5(path: Path) -> h5py.File:
    """Open `path` for reading.

    Raises
    ------
    FormatError
        When HDF5 cannot: truncated, being written, damaged.
    """
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        text = str(error)
        if "truncated" in text:
            reason = "it is truncated: the copy or the writing stopped early; copy it again"
        elif "unable to lock" in text or "already open" in text:
            reason = "another process is writing it; wait until the scan has ended"
        else:
            reason = f"HDF5 says: {text}"
        raise FormatError(f"{path} cannot be opened as HDF5: {reason}") from None


@contextlib.contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Give an empty file that takes the place of `path` when the block ends well.

    Raises
    ------
    FormatError
        When the folder does not exist or may not be written, or when the disk is full.
    """
    # A Python file below HDF5: when the disk is full the error is the system's, and no handle stays behind. The
    # layout of HDF5 1.8 can hold attributes of any size, and every reader in use knows it.
    with (
        replaced_when_whole(path) as part,
        part.open("w+b") as raw,
        h5py.File(raw, "w", libver=("v108", "v108")) as file,
    ):
        yield file


def write_frames(group: h5py.Group, key: str, dataset: PtychoDataset) -> None:
    """Write the frames batch by batch, so that they need not fit into memory, packed without loss."""
    shape = tuple(int(n) for n in dataset.frames.shape)
    stored = group.create_dataset(
        key, shape, dataset.frames.dtype, chunks=(1, *shape[1:]), compression="gzip", compression_opts=1, shuffle=True
    )
    for chosen, frames in dataset.batches():
        stored[chosen] = frames


class Hdf5Frames:
    """Frames (N, H, W) of a dataset in an HDF5 file.

    The file is opened at the first read and stays open until :meth:`close`; a pickled copy, or one in a forked
    process, opens its own.

    Parameters
    ----------
    path:
        Of the file.
    key:
        Of the dataset within it, (N, H, W).
    view:
        What is done to each frame; None takes it as stored.
    count:
        Use only the first `count` frames; None uses all.

    Raises
    ------
    FormatError
        When the file, the dataset or a part of it cannot be read.
    """

    def __init__(self, path: str | Path, key: str, view: FrameView | None = None, count: int | None = None) -> None:
        self.path = Path(path).absolute()
        self.key = key
        self._file: h5py.File | None = None
        self._pid = 0
        stored = self._dataset()
        if stored.ndim != 3:
            raise FormatError(f"{self.path}: {key} has shape {stored.shape}; frames must be (N, H, W)")
        self._view = view or FrameView((int(stored.shape[1]), int(stored.shape[2])))
        self._count = int(stored.shape[0]) if count is None else min(count, int(stored.shape[0]))
        # In the machine's byte order: torch and numba take no other, and older detectors write big-endian.
        self._dtype: np.dtype[Any] = np.dtype(stored.dtype).newbyteorder("=")
        self.close()  # an open file is locked: whoever still writes it must not be kept out before frames are read

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W)."""
        return (self._count, *self._view.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one pixel, as stored but for the byte order, which is the machine's."""
        return self._dtype

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: slice | int) -> npt.NDArray[Any]:
        """Return the frames of a slice, or one frame, read from the file now."""
        if not isinstance(index, slice):
            number = operator.index(index)
            if not -self._count <= number < self._count:
                raise IndexError(f"frame {number} of {self._count}; allowed is {-self._count} to {self._count - 1}")
            number %= self._count
            return np.asarray(self[number : number + 1][0])
        chosen = range(self._count)[index]
        if not len(chosen):
            return np.empty((0, *self._view.shape), self._dtype)
        ascending = chosen if chosen.step > 0 else chosen[::-1]
        try:
            frames = np.asarray(self._dataset()[ascending.start : ascending.stop : ascending.step], self._dtype)
        except OSError as error:
            raise FormatError(
                f"{self.path}: frames {ascending[0]} to {ascending[-1]} of {self.key} cannot be read ({error}); "
                "the file is damaged, or its compression filter is missing here"
            ) from None
        frames = self._view.apply(frames)
        return np.asarray(frames if chosen.step > 0 else frames[::-1])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Read all frames."""
        if copy is False:
            raise ValueError("frames in a file cannot become an array without a copy")
        return np.asarray(self[:], dtype=dtype)

    def _dataset(self) -> Any:
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = open_hdf5(self.path), os.getpid()
        try:
            return self._file[self.key]
        except KeyError:
            raise FormatError(
                f"{self.path} has no dataset {self.key}, or it is a link to a file that is not there"
            ) from None

    def viewed(self, view: FrameView, count: int) -> Hdf5Frames:
        """Return the first `count` frames, as stored but for `view`."""
        return Hdf5Frames(self.path, self.key, view, count)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def __enter__(self) -> Hdf5Frames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __repr__(self) -> str:
        return f"Hdf5Frames({self.path.name}, {self.key}, shape={self.shape}, dtype={self.dtype})"
