"""A detector's file writer: a stack of frames that grows, flushed in SWMR mode."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream.simulators._compress import Compression, Compressor
from ptycho_bluesky.stream.simulators._detector import Exposure

__all__ = ["Hdf5Transmitter"]

FRAMES = "/entry/data/data"
NUMBERS = "/entry/instrument/NDAttributes/NDArrayUniqueId"
TIMES = "/entry/instrument/NDAttributes/NDArrayTimeStamp"
FLUSH_S = 0.05
EPICS_EPOCH_S = 631_152_000.0
"""1990 in seconds since 1970: areaDetector counts from there."""


class Hdf5Transmitter:
    """Writes the file that areaDetector's HDF5 plugin writes; a restart replaces it.

    Parameters
    ----------
    path:
        File to make or to replace.
    compression:
        Of the frames: ``none``, ``bslz4`` or ``blosc``.

    Raises
    ------
    SourceError
        When it is ``lz4``, which HDF5 files do not have here.
    """

    def __init__(self, path: Path, compression: Compression = "bslz4") -> None:
        self.uri = f"hdf5://{path.absolute()}?index={NUMBERS}&times={TIMES}&epoch=1990#{FRAMES}"
        if compression == "lz4":
            raise SourceError("compression 'lz4' is not written to HDF5 here; choose none, bslz4 or blosc")
        self._path, self._compressor = path, Compressor(compression)
        self._file: Any = None
        self._flushed = 0.0

    def begin(self, series: int, first: Exposure) -> None:
        """Make the file of a series whose frames look like `first`: under another name, then put in its place."""
        self.close()
        self._shape, self._dtype = first.pixels.shape, first.pixels.dtype
        fresh = self._path.with_name(self._path.name + ".new")
        self._file = h5py.File(fresh, "w", libver="latest")
        filters: dict[str, Any] = {
            "none": {},
            "bslz4": hdf5plugin.Bitshuffle(cname="lz4"),
            "blosc": hdf5plugin.Blosc(cname="lz4"),
        }[self._compressor.compression]
        self._frames = self._file.create_dataset(
            FRAMES, (0, *self._shape), self._dtype, maxshape=(None, *self._shape), chunks=(1, *self._shape), **filters
        )
        self._numbers = self._file.create_dataset(NUMBERS, (0,), np.int32, maxshape=(None,), chunks=(1024,))
        self._times = self._file.create_dataset(TIMES, (0,), np.float64, maxshape=(None,), chunks=(1024,))
        self._file.swmr_mode = True
        fresh.replace(self._path)

    def send(self, exposure: Exposure) -> bool:
        """Append a frame.

        Raises
        ------
        SourceError
            When its shape or dtype is another than that of the first.
        """
        if (exposure.pixels.shape, exposure.pixels.dtype) != (self._shape, self._dtype):
            raise SourceError("a stack in HDF5 has one shape and one dtype; these faults are for the other transports")
        row = len(self._frames)
        self._frames.resize(row + 1, axis=0)
        self._frames.id.write_direct_chunk((row, 0, 0), self._compressor(exposure))
        for data, value in ((self._numbers, exposure.index), (self._times, exposure.time - EPICS_EPOCH_S)):
            data.resize(row + 1, axis=0)
            data[row] = value
        if time.monotonic() - self._flushed > FLUSH_S:
            self._flush()
        return True

    def _flush(self) -> None:
        for data in (self._frames, self._numbers, self._times):
            data.flush()
        self._flushed = time.monotonic()

    def end(self, series: int) -> None:
        """Close the file: readers see that it is complete."""
        self.close()

    def close(self) -> None:
        """Close the file where one is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
