"""Rows of HDF5 datasets, read while another process still writes them (SWMR)."""

from __future__ import annotations

import time
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 (registers the detectors' compression filters)
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.stream._documents import FileSlice

__all__ = ["SliceReader"]


class SliceReader:
    """Reads :class:`FileSlice` after :class:`FileSlice`, keeping files open in between.

    Parameters
    ----------
    timeout_s:
        How long to wait for rows that are announced but not yet in the file.
    """

    def __init__(self, timeout_s: float = 5.0) -> None:
        self.timeout_s = timeout_s
        self._files: dict[str, Any] = {}

    def read(self, wanted: FileSlice) -> npt.NDArray[Any]:
        """Return the rows (n, ...), waiting for the writer where they are not there yet.

        Raises
        ------
        FormatError
            When the file cannot be read or the rows do not come within the timeout.
        """
        end, fault = time.monotonic() + self.timeout_s, ""
        while True:
            try:
                file = self._files.get(wanted.path)
                if file is None:
                    file = self._files[wanted.path] = h5py.File(wanted.path, "r", libver="latest", swmr=True)
                data = file[wanted.dataset]
                if len(data) < wanted.stop:
                    data.refresh()
                if len(data) >= wanted.stop:
                    return np.asarray(data[wanted.start : wanted.stop])
                fault = f"it has {len(data)} rows"
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                fault = str(error)
                self._forget(wanted.path)
            if time.monotonic() > end:
                raise FormatError(
                    f"rows {wanted.start} to {wanted.stop} of {wanted.dataset!r} in {wanted.path} cannot be read "
                    f"({fault}) after {self.timeout_s:g} s; the writer must flush in SWMR mode, on a file system "
                    "that this machine sees"
                )
            time.sleep(0.02)

    def _forget(self, path: str) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close all files."""
        for path in list(self._files):
            self._forget(path)
