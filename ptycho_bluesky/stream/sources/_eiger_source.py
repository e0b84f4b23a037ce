"""Frames from a DECTRIS detector (Eiger, Pilatus 4) by ZMQ, both forms of its stream."""

from __future__ import annotations

import math
import time
from typing import Any

import zmq

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream.sources._eiger_messages import (
    Event,
    Image,
    SeriesEnd,
    SeriesStart,
    parse_cbor,
    parse_json,
)
from ptycho_bluesky.stream.sources._frame import DamagedFrame
from ptycho_bluesky.stream.sources._queue import BackPressure
from ptycho_bluesky.stream.sources._receiver import POLL_S, ReceivingSource

__all__ = ["EigerSource"]

BATCH = 64
"""Messages between two looks whether to stop."""


class EigerSource(ReceivingSource):
    """Pulls images from the stream interface of a detector (or a proxy of it).

    JSON with binary parts (stream 1) and CBOR (stream 2) are told apart message by message. Both give the start of an
    exposure relative to the arming of the detector; stream 1 does not say when that was, so there the clock is set by
    the arrival of the first message of the series.

    Parameters
    ----------
    host, port:
        Of the detector's stream, ``tcp://host:port``; the port is 9999 for stream 1 and 31001 for stream 2 by default.
    channel:
        Which threshold, where stream 2 brings several; None for the first.
    subscribe:
        Whether the other end is a proxy that publishes (PUB) instead of the detector, which pushes (PUSH). A publisher
        drops what does not fit.
    buffered:
        Messages that ZMQ holds for this source before the detector must hold them.
    back_pressure:
        What happens to frames that are not read in time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        channel: str | None = None,
        subscribe: bool = False,
        buffered: int = 1000,
        back_pressure: BackPressure | None = None,
    ) -> None:
        super().__init__(f"eiger://{host}:{port}", back_pressure)
        self._address, self._channel, self._buffered = f"tcp://{host}:{port}", channel, buffered
        self._subscribe = subscribe
        self._series: int | None = None
        self._armed_at = math.nan
        self.settings: dict[str, Any] = {}
        """What the detector said of itself when the present series began."""

    def _receive(self) -> None:
        context = zmq.Context()
        try:
            socket = context.socket(zmq.SUB if self._subscribe else zmq.PULL)
            if self._subscribe:
                socket.subscribe(b"")
            socket.set(zmq.RCVHWM, self._buffered)
            socket.set(zmq.RECONNECT_IVL, 50)
            socket.set(zmq.RECONNECT_IVL_MAX, 1000)
            monitor = socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED)
            self.fault = f"nothing answers at {self._address}"
            try:
                socket.connect(self._address)
            except zmq.ZMQError as error:
                raise SourceError(f"{self._address} is no address to connect to: {error}") from error
            poller = zmq.Poller()
            poller.register(socket, zmq.POLLIN)
            poller.register(monitor, zmq.POLLIN)
            while not self._closing.is_set():
                ready = dict(poller.poll(POLL_S * 1000))
                if socket in ready:
                    self._drain(socket)
                if monitor in ready:
                    self._watch(monitor)
        finally:
            context.destroy(linger=0)

    def _drain(self, socket: Any) -> None:
        for _ in range(BATCH):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if not self.connected:
                self._connection(True)
            try:
                self._take(self._parse([part.buffer for part in parts]))
            except DamagedFrame as reason:
                self._damaged(str(reason))

    def _parse(self, parts: list[memoryview]) -> Event:
        if len(parts) == 1 and bytes(parts[0][:1]) != b"{":
            return parse_cbor(parts[0], self._channel)
        return parse_json(parts)

    def _watch(self, monitor: Any) -> None:
        from zmq.utils.monitor import recv_monitor_message

        there = recv_monitor_message(monitor, zmq.NOBLOCK)["event"] == zmq.EVENT_CONNECTED
        self._connection(there, "" if there else f"{self._address} is gone; waiting for it")

    def _take(self, event: Event) -> None:
        if event.series != self._series:
            self._series, self._armed_at, self.settings = event.series, math.nan, {}
            self._check.begin(0)
        if isinstance(event, SeriesStart):
            self._armed_at, self.settings = event.armed_at, event.settings
            if math.isnan(event.armed_at):
                self._armed_at = time.time()
        elif isinstance(event, SeriesEnd):
            self._end_series(f"series {event.series} ended")
        elif isinstance(event, Image):
            if math.isnan(self._armed_at):  # the start of the series was missed
                self._armed_at = time.time() - (0.0 if math.isnan(event.since_armed_s) else event.since_armed_s)
            self._admit(event.index, self._armed_at + event.since_armed_s, event.pixels)
