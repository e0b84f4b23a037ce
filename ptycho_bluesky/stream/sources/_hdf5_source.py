"""Frames from an HDF5 file: a finished one, or one that another process still writes (SWMR)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 (registers the detectors' compression filters)
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.stream.sources._codec import decompress
from ptycho_bluesky.stream.sources._frame import DamagedFrame
from ptycho_bluesky.stream.sources._queue import BackPressure
from ptycho_bluesky.stream.sources._receiver import POLL_S, ReceivingSource

__all__ = ["Hdf5Source"]

ROWS = 16
"""Frames between two looks at the file's end."""
FOLLOW_S = 0.02
CACHE_BYTES = 1 << 26
"""Decompressed chunks that HDF5 keeps: one of several frames is read that often."""
EPICS_EPOCH_S = 631_152_000.0
"""1990 in seconds since 1970."""
SAFE_CODECS = {32008: "bslz4", 32004: "lz4", 32001: "blosc"}
"""HDF5 filters that damaged chunks can crash; such chunks are read raw and decompressed here."""


class _Frames:
    """The dataset of frames in an open file: how many there are, and each by its number."""

    def __init__(self, file: Any, dataset: str, index: str | None, times: str | None, growing: bool) -> None:
        named = [name for name in (dataset, index, times) if name is not None]
        missing = [name for name in named if name not in file]
        if missing:
            raise KeyError(f"there is no dataset {', '.join(map(repr, missing))}")
        self._frames = file[dataset]
        self._index = None if index is None else file[index]
        self._times = None if times is None else file[times]
        if self._frames.ndim != 3:
            raise FormatError(f"{dataset!r} has shape {self._frames.shape}; frames must be stacked as (N, H, W)")
        self.shape = int(self._frames.shape[1]), int(self._frames.shape[2])
        self._codec = self._raw_codec()
        self._growing = growing

    def _raw_codec(self) -> str | None:
        properties = self._frames.id.get_create_plist()
        if self._frames.chunks != (1, *self.shape) or properties.get_nfilters() > 1:
            return None
        if properties.get_nfilters() == 0:
            return "none"
        code, _, values, _ = properties.get_filter(0)
        if code == 32008 and (len(values) < 5 or values[4] != 2):  # 2 is LZ4 among bitshuffle's compressors
            return None
        return SAFE_CODECS.get(code)

    def count(self) -> int:
        """Return how many rows all the datasets have by now."""
        found = []
        for data in (self._frames, self._index, self._times):
            if data is not None:
                if self._growing:
                    data.refresh()
                found.append(len(data))
        return min(found)

    def number(self, row: int) -> int:
        return row if self._index is None else int(self._index[row])

    def time(self, row: int) -> float:
        return math.nan if self._times is None else float(self._times[row])

    def pixels(self, row: int) -> npt.NDArray[Any]:
        """Return a frame.

        Raises
        ------
        DamagedFrame
            When its chunk cannot be read.
        """
        try:
            if self._codec is None:
                return np.asarray(self._frames[row])
            skipped, chunk = self._frames.id.read_direct_chunk((row, 0, 0))
        except (OSError, RuntimeError) as error:
            raise DamagedFrame("chunk cannot be read") from error
        return decompress(chunk, "none" if skipped & 1 else self._codec, self._frames.dtype, self.shape)


class Hdf5Source(ReceivingSource):
    """Reads a stack of frames row by row, follows the file while it grows, and begins again when it is replaced.

    Parameters
    ----------
    path, dataset:
        The file and the stack (N, H, W) in it. Neither need be there yet.
    index, times:
        Datasets (N,) of the frames' numbers (areaDetector: ``/entry/instrument/NDAttributes/NDArrayUniqueId``) and time
        stamps in seconds (``NDArrayTimeStamp``); None for the number of the row, and for none. A row needs all of them.
    epoch:
        Year from which the time stamps count: "1970", or "1990" for EPICS, as areaDetector writes them.
    frames:
        How many frames the series will have; None where only the writer knows. Without it the series ends when the
        writer has closed the file.
    back_pressure:
        What happens to frames that are not read in time.
    """

    def __init__(
        self,
        path: Path,
        dataset: str,
        *,
        index: str | None = None,
        times: str | None = None,
        epoch: str = "1970",
        frames: int | None = None,
        back_pressure: BackPressure | None = None,
    ) -> None:
        super().__init__(f"hdf5://{path}#{dataset}", back_pressure)
        self._path, self._expected = path, frames
        self._names = dataset, index, times
        self._epoch_s = EPICS_EPOCH_S if epoch == "1990" else 0.0

    def _receive(self) -> None:
        while not self._closing.is_set():
            identity = self._identity()
            if identity is None:
                self._connection(False, f"there is no file {self._path}")
                self._closing.wait(POLL_S)
                continue
            try:
                growing = self._being_written()
                with h5py.File(self._path, "r", libver="latest", swmr=growing, rdcc_nbytes=CACHE_BYTES) as file:
                    stack = _Frames(file, *self._names, growing)
                    self._connection(True)
                    self._check.begin(0 if self._names[1] is None else None)
                    self._follow(stack, identity)
            except (OSError, KeyError, RuntimeError) as error:  # half made, or written without SWMR
                self._connection(False, f"{self._path} cannot be read: {error}")
                self._closing.wait(POLL_S)
                continue
            while not self._closing.wait(POLL_S) and self._identity() in (identity, None):
                pass

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _follow(self, stack: _Frames, identity: tuple[int, int]) -> None:
        row = 0
        while not self._closing.is_set():
            replaced = self._identity() != identity  # both before the last look at how many there are
            over = replaced or not self._being_written()
            there = stack.count()
            for k in range(row, min(row + ROWS, there)):
                self._admit(stack.number(k), stack.time(k) + self._epoch_s, self._reader(stack, k))
                if self._closing.is_set():
                    return
            row = max(row, min(row + ROWS, there))
            if row >= there and (over or row == self._expected):
                self._end_series(f"{row} frames" + (", then the file was replaced" if replaced else ""))
                return
            if row >= there:
                self._closing.wait(FOLLOW_S)

    @staticmethod
    def _reader(stack: _Frames, row: int) -> Callable[[], npt.NDArray[Any]]:
        return lambda: stack.pixels(row)

    def _being_written(self) -> bool:
        """Tell from the file's first bytes whether a writer has it open (HDF5 format specification, superblock 3)."""
        try:
            with self._path.open("rb") as file:
                head = file.read(12)
        except OSError:
            return False
        return len(head) == 12 and head[8] >= 3 and bool(head[11] & 1)
