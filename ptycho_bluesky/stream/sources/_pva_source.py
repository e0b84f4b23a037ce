"""Frames from an areaDetector NTNDArray by pvAccess."""

from __future__ import annotations

import atexit
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.stream._optional import optional
from ptycho_bluesky.stream.sources._codec import decompress
from ptycho_bluesky.stream.sources._frame import DamagedFrame
from ptycho_bluesky.stream.sources._queue import BackPressure
from ptycho_bluesky.stream.sources._receiver import POLL_S, ReceivingSource

__all__ = ["PvaSource"]

logger = logging.getLogger(__name__)

DTYPES = {1: "i1", 2: "i2", 3: "i4", 4: "i8", 5: "u1", 6: "u2", 7: "u4", 8: "u8", 9: "f4", 10: "f8"}
"""dtype of pvData's scalar types, by which a codec names what was compressed."""


class PvaSource(ReceivingSource):
    """Monitors an NTNDArray record; ``uniqueId`` is the frame's number, ``timeStamp`` its time.

    pvAccess connects again by itself when a server comes back. The first update after each connection is what the
    record held before, an old frame or nothing, and is left out. Where the server is, EPICS_PVA_ADDR_LIST and its
    relatives say.

    Parameters
    ----------
    pv:
        Name of the record.
    back_pressure:
        What happens to frames that are not read in time. While this source blocks, the monitor's queue fills; what does
        not fit there is lost, and counted as dropped.
    monitor_queue:
        Frames that pvAccess itself queues between server and client, 1 or more. Its own default, 2 to 4, loses frames
        whenever the client's process pauses for a moment.

    Raises
    ------
    SourceError
        When pvapy (extra ``epics``) is missing.
    """

    def __init__(self, pv: str, back_pressure: BackPressure | None = None, *, monitor_queue: int = 100) -> None:
        super().__init__(f"pva://{pv}", back_pressure)
        self._pv, self._pvaccess = pv, optional("pvaccess", "epics")
        self._request = f"record[queueSize={max(1, monitor_queue)}]field()"
        self._updates = threading.Lock()  # updates and changes of the connection come from several threads
        self._fresh = True

    def _receive(self) -> None:
        channel = self._pvaccess.Channel(self._pv)
        self.fault = f"there is no record {self._pv!r} on the network that EPICS_PVA_ADDR_LIST describes"
        channel.setConnectionCallback(self._connected)
        channel.subscribe("ptycho_bluesky", self._update)
        channel.startMonitor(self._request)
        atexit.register(self.close)  # pvAccess's threads abort a process that ends under a monitor
        try:
            while not self._closing.wait(POLL_S):
                pass
        finally:
            channel.stopMonitor()
            channel.unsubscribe("ptycho_bluesky")
            atexit.unregister(self.close)

    def _connected(self, there: bool) -> None:
        with self._updates:
            self._fresh = self._fresh or not there
            self._connection(there, "" if there else f"the server of {self._pv!r} is gone; waiting for it")

    def _update(self, update: Any) -> None:
        """Take an update, in pvAccess's thread, which no exception may reach."""
        if self._closing.is_set():
            return
        try:
            with self._updates:
                self._frame(update)
        except Exception:
            logger.exception("update of %s cannot be read", self._pv)
            self._damaged("update that is no NTNDArray")

    def _frame(self, update: Any) -> None:
        value = update["value"][0]
        first, self._fresh = self._fresh, False
        if not value:
            self._check.begin()  # a server that has just started
        if first or not value:
            return
        stamp = update["timeStamp"]
        seconds = stamp["secondsPastEpoch"] + 1e-9 * stamp["nanoseconds"]
        self._admit(int(update["uniqueId"]), seconds or math.nan, self._reader(update, value))

    @staticmethod
    def _reader(update: Any, value: dict[str, Any]) -> Callable[[], npt.NDArray[Any]]:
        def pixels() -> npt.NDArray[Any]:
            flat = np.asarray(next(iter(value.values())))
            sizes = [int(d["size"]) for d in update["dimension"]]
            if len(sizes) != 2 or not all(sizes):
                raise DamagedFrame(f"picture of {len(sizes)} dimensions {sizes}")
            shape = sizes[1], sizes[0]  # NTNDArray: the fastest dimension first
            codec = str(update["codec"]["name"])
            if codec:
                return decompress(memoryview(flat.tobytes()), codec, _compressed_dtype(update["codec"]), shape)
            if flat.size != shape[0] * shape[1]:
                raise DamagedFrame(f"{flat.size} pixels for a picture of shape {shape}")
            return np.array(flat).reshape(shape)

        return pixels


def _compressed_dtype(codec: Any) -> str:
    """Return the dtype that a codec's ``parameters``, a union of an int, names."""
    parameters = codec["parameters"]
    found = parameters[0] if isinstance(parameters, tuple | list) else parameters
    number = found.get("value") if isinstance(found, dict) else found
    if number not in DTYPES:
        raise DamagedFrame(f"codec {codec['name']!r} with parameters {number!r}, which name no type of pixels")
    return DTYPES[number]
