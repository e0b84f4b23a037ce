"""Frames from a ring in shared memory, from any process of the same machine."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream._ring import FrameRing, Kind, Record
from ptycho_bluesky.stream._segment import segment_path
from ptycho_bluesky.stream.sources._frame import DamagedFrame
from ptycho_bluesky.stream.sources._queue import BackPressure
from ptycho_bluesky.stream.sources._receiver import POLL_S, ReceivingSource

__all__ = ["RingSource"]

BATCH = 32


def _identity(name: str) -> tuple[Path, int] | None:
    """Return what tells this ring from another one that later has the same name; None where there is none."""
    path = segment_path(name)
    try:
        return None if path is None else (path, path.stat().st_ino)
    except FileNotFoundError:  # gone in the meantime
        return None


class RingSource(ReceivingSource):
    """Reads the :class:`FrameRing` `name`, and its successor when its producer starts again.

    A ``start`` message in the ring begins a series, a ``stop`` message ends it; other messages are passed over. The
    positions that the ring's frames bring along are given on.

    Parameters
    ----------
    name:
        Of the ring.
    back_pressure:
        What happens to frames that are not read in time; while this source blocks, the ring fills.
    """

    def __init__(self, name: str, back_pressure: BackPressure | None = None) -> None:
        super().__init__(f"ring://{name}", back_pressure)
        self._ring_name = name
        segment_path(name)  # refuses a name that cannot be one

    def _receive(self) -> None:
        while not self._closing.is_set():
            identity = _identity(self._ring_name)
            try:
                ring = FrameRing.attach(self._ring_name)
            except (InferenceError, FileNotFoundError, ValueError) as error:  # half made, too
                self._connection(False, str(error))
                self._closing.wait(POLL_S)
                continue
            with ring:
                try:
                    ring.become_consumer(timeout_s=POLL_S)
                except InferenceError as error:
                    self._connection(False, str(error))
                    continue
                self._connection(True)
                while not self._closing.is_set():
                    if ring.wait(POLL_S):
                        self._take(ring)
                    elif _identity(self._ring_name) != identity:
                        break
            self._connection(False, f"ring {self._ring_name!r} is gone")

    def _take(self, ring: FrameRing) -> None:
        for record in ring.take(BATCH):
            if record.kind is Kind.FRAME:
                self._frame(record)
            elif record.message is not None:
                kind = record.message.get("type")
                if kind == "start":
                    self._check.begin(0)
                elif kind == "stop":
                    self._end_series(f"run ended ({record.message.get('exit_status', 'no status')})")
        ring.commit()

    def _frame(self, record: Record) -> None:
        def copy() -> npt.NDArray[np.generic]:
            if record.frame is None:
                raise DamagedFrame("record without pixels")
            return record.frame.copy()

        known = math.isfinite(record.y) and math.isfinite(record.x)
        self._admit(record.index, record.time, copy, (record.y, record.x) if known else None)
