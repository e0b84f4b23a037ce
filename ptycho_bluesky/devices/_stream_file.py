"""Rows of frames and positions in an HDF5 file that others read while it grows, and the documents that tell of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from event_model import compose_stream_resource

from ptycho_bluesky.errors import DeviceError

__all__ = ["FRAMES_DATASET", "StreamDataset", "StreamDocuments", "StreamFile"]

FRAMES_DATASET = "/entry/data/data"
"""Where areaDetector's HDF5 plugin puts frames; ours do so too."""

CHUNK_BYTES = 2**18
"""About what a chunk holds: few enough of them, and small enough to be read one by one."""


@dataclass(frozen=True)
class StreamDataset:
    """One data key of a stream: a dataset that grows by a row for each frame."""

    key: str
    """Data key in documents."""

    path: str
    """Inside of the file."""

    shape: tuple[int, ...]
    """Of a row: (H, W) of a frame, () of a number."""

    dtype: str
    """Of NumPy, e.g. ``"<u2"``."""

    units: str | None = None
    """Of the values."""

    rows_per_chunk: int | None = None
    """None for chunks of 256 KiB."""

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Of the dataset's chunks; the first axis counts rows."""
        row = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        rows = self.rows_per_chunk or int(np.clip(CHUNK_BYTES // row, 1, 1024))
        return (rows, *self.shape)

    def data_key(self, source: str) -> dict[str, Any]:
        """Return what a descriptor says of it; a frame has shape (1, H, W), as ophyd-async has it."""
        shape = [1, *self.shape] if self.shape else []
        key = {"source": source, "dtype": "array" if self.shape else "number", "shape": shape}
        units = {} if self.units is None else {"units": self.units}
        return {**key, "dtype_numpy": self.dtype, "external": "STREAM:", **units}


class StreamDocuments:
    """What documents tell of a growing file: ``stream_resource`` once for each dataset, then ranges of its rows."""

    def __init__(self, path: Path, datasets: Sequence[StreamDataset]) -> None:
        self._path, self._datasets, self._emitted = path, tuple(datasets), 0
        self._bundles: list[Any] = []

    def upto(self, stop: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the documents of the rows before `stop` that were not told yet."""
        if stop <= self._emitted:
            return
        if not self._bundles:
            self._bundles = [
                compose_stream_resource(
                    mimetype="application/x-hdf5",
                    uri=f"file://localhost{self._path.as_uri().removeprefix('file://')}",
                    data_key=d.key,
                    parameters={"dataset": d.path, "swmr": True, "chunk_shape": d.chunk_shape},
                )
                for d in self._datasets
            ]
            for bundle in self._bundles:
                yield "stream_resource", bundle.stream_resource_doc
        start, self._emitted = self._emitted, stop
        for bundle in self._bundles:
            yield "stream_datum", bundle.compose_stream_datum({"start": start, "stop": stop})


class StreamFile:
    """An HDF5 file in SWMR mode, its datasets all of the same length; readers see every row that is counted.

    Parameters
    ----------
    path:
        Must not exist; its folder is made.
    datasets:
        What it holds.

    Raises
    ------
    DeviceError
        When the file cannot be made, or later a row not be written: no space, no permission.
    """

    def __init__(self, path: Path, datasets: Sequence[StreamDataset]) -> None:
        self.path, self.datasets, self.written = path, tuple(datasets), 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(path, "x", libver="latest")
        except OSError as error:
            raise DeviceError(f"{path} cannot be written: {error}; give another folder, or make room") from error
        self._sets = {
            d.key: self._file.create_dataset(
                d.path, (0, *d.shape), d.dtype, maxshape=(None, *d.shape), chunks=d.chunk_shape
            )
            for d in self.datasets
        }
        self._file.swmr_mode = True
        self._documents = StreamDocuments(path, self.datasets)

    def append(self, rows: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the same number of rows to every dataset, arrays (n, ...) by key, and only then count them.

        Raises
        ------
        DeviceError
            When a key is missing or foreign, the numbers of rows differ, or the disk refuses them.
        """
        counts = {len(values) for values in rows.values()}
        if rows.keys() != self._sets.keys() or len(counts) != 1:
            raise DeviceError(f"{self.path.name} was given rows of {sorted(rows)}; it has {sorted(self._sets)}")
        stop = self.written + counts.pop()
        try:
            for key, values in rows.items():
                self._sets[key].resize(stop, axis=0)
                self._sets[key][self.written : stop] = values
                self._sets[key].flush()
        except (OSError, RuntimeError, ValueError) as error:  # h5py's, by what the disk says
            raise DeviceError(f"row {self.written} cannot be written to {self.path}: {error}; make room") from error
        self.written = stop

    def documents(self, index: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the documents of what was not told yet, up to `index`: see :class:`StreamDocuments`."""
        return self._documents.upto(self.written if index is None else min(index, self.written))

    def close(self) -> None:
        """Close the file; it stays readable."""
        self._file.close()
