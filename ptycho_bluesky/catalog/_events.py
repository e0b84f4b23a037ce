"""Scalars of a run's streams, with few requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.catalog._frames import stream_array
from ptycho_bluesky.experiment import PtychographyMetadata

__all__ = ["Events"]


class Events:
    """Columns of a run's streams, each event once; every request to Tiled is made once."""

    def __init__(self, run: Any, block: PtychographyMetadata) -> None:
        self.metadata, self._run = run.metadata, run
        self._scalars = ("seq_num", "time", *block.position_keys)
        self._streams: dict[str, Any] = {}
        self._columns: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
        self._tables: set[str] = set()

    def __getitem__(self, stream: str) -> Any:
        if stream not in self._streams:
            self._streams[stream] = self._run[stream]
        return self._streams[stream]

    def __iter__(self) -> Iterator[str]:
        return iter(self._run)

    def _table(self, stream: str) -> dict[str, npt.NDArray[np.float64]]:
        """Return the numbers that came inside of events: Tiled keeps them in one table, read in one request."""
        if stream not in self._columns:
            found: dict[str, npt.NDArray[np.float64]] = {}
            try:
                table = self[stream].base["internal"]
            except (AttributeError, KeyError):  # another kind of stream, or none inside of events
                table = None
            if table is not None:
                frame = table.read([key for key in self._scalars if key in table.columns])
                found = {key: np.asarray(frame[key]) for key in frame.columns if _is_number(frame[key].dtype)}
                self._tables.add(stream)
            self._columns[stream] = found
        return self._columns[stream]

    def column(self, key: str, stream: str) -> npt.NDArray[np.float64] | None:
        """Return (events,) or (events, n) values of a data key; None where there is no ``seq_num`` or ``time``."""
        values = self._raw(key, stream)
        numbers = self._raw("seq_num", stream)
        if values is None or numbers is None:
            return values
        rows = np.unique(numbers, return_index=True)[1]  # a writer that had to try again may have appended rows twice
        return values if len(rows) > len(values) else values[rows]

    def _raw(self, key: str, stream: str) -> npt.NDArray[np.float64] | None:
        known = self._table(stream)
        if key not in known:
            if key in ("seq_num", "time") and (stream in self._tables or key not in self[stream]):
                return None
            known[key] = np.asarray(stream_array(self, key, stream).read(), np.float64)
        return known[key]


def _is_number(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and bool(np.issubdtype(dtype, np.number))
