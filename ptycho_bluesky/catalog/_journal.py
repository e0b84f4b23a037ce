"""A run's documents on disk, as they come: what is left of a run when Tiled, or the console, died in the middle.

One file a run: msgpack objects ``[name, document]`` one after the other, arrays as they are. The writer holds a lock
on the file, so that nobody re-sends a run that is still going on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np

from ptycho_bluesky._locks import acquire, release

__all__ = ["Journal", "read_journal"]

ARRAY = "__ndarray__"


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {ARRAY: [value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (set, frozenset)):
        return list(value)
    return str(value)


def _decode(value: dict[Any, Any]) -> Any:
    if ARRAY not in value:
        return value
    dtype, shape, data = value[ARRAY]
    return np.frombuffer(data, dtype).reshape(shape)


class Journal:
    """The journal of one run, open for writing.

    Parameters
    ----------
    path:
        File to write; it exists until :meth:`remove`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = acquire(path)
        self._file: BinaryIO = path.open("ab", buffering=1 << 16)

    def append(self, name: str, document: dict[str, Any]) -> None:
        """Write one document; it is in the operating system's hands when this returns."""
        self._file.write(msgpack.packb([name, document], default=_encode))
        self._file.flush()

    def close(self) -> None:
        """Keep the file for :func:`~ptycho_bluesky.catalog.resend_backups`."""
        self._file.close()
        release(self._lock)
        self._lock = None

    def remove(self) -> None:
        """Delete the file: the catalogue has it all."""
        self._path.unlink(missing_ok=True)
        self.close()


def read_journal(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents of a journal; a torn last one, from a power cut, is left out."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        unpacker = msgpack.Unpacker(file, object_hook=_decode, strict_map_key=False, max_buffer_size=max(size, 1))
        yield from unpacker
