"""An Eiger's stream: both forms, over ZMQ."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import zmq

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream._optional import optional
from ptycho_bluesky.stream.simulators._compress import Compression, Compressor
from ptycho_bluesky.stream.simulators._detector import Exposure

__all__ = ["EigerTransmitter", "StreamForm"]

StreamForm = Literal["json", "cbor"]
TAGS = {"uint8": 64, "uint16": 69, "uint32": 70}
LINGER_MS = 5000


class EigerTransmitter:
    """Pushes frames as a DECTRIS detector does.

    Parameters
    ----------
    port:
        To listen on; 0 for any free one, which ``uri`` then names.
    form:
        ``json`` (stream 1) or ``cbor`` (stream 2).
    compression:
        Of the frames: ``none``, ``lz4`` or ``bslz4``.
    host:
        Interface to listen on.
    buffered:
        Messages held for a client that is slow; then the sender waits.

    Raises
    ------
    SourceError
        When the port is taken, or a package is missing.
    """

    def __init__(
        self,
        port: int = 0,
        form: StreamForm = "cbor",
        compression: Compression = "bslz4",
        host: str = "127.0.0.1",
        buffered: int = 200,
    ) -> None:
        if compression == "blosc":
            raise SourceError("an Eiger does not compress by blosc; choose none, lz4 or bslz4")
        self._cbor = optional("cbor2", "edge") if form == "cbor" else None
        self._compressor = Compressor(compression)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.set(zmq.SNDHWM, buffered)
        self._socket.set(zmq.LINGER, LINGER_MS)
        try:
            self._socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise SourceError(f"port {port} on {host} cannot be listened on ({error}); give another") from error
        self._port = int(self._socket.get(zmq.LAST_ENDPOINT).decode().rsplit(":", 1)[1])
        self.uri = f"eiger://{host}:{self._port}"
        self._series, self._armed = 0, 0.0
        self._wait_s = LINGER_MS / 1000  # for room; a tenth of a second once nobody has taken a message

    def begin(self, series: int, first: Exposure) -> None:
        """Send the header of a series whose frames look like `first`."""
        self._series, self._armed = series + 1, first.time
        rows, columns = first.pixels.shape
        if self._cbor is None:
            settings = {"bit_depth_image": 8 * first.pixels.dtype.itemsize, "compression": self._compressor.compression}
            settings |= {"x_pixels_in_detector": columns, "y_pixels_in_detector": rows}
            head = {"htype": "dheader-1.0", "series": self._series, "header_detail": "basic"}
            self._send([json.dumps(head).encode(), json.dumps(settings).encode()])
            return
        self._send_object(
            {
                "type": "start",
                "series_id": self._series,
                "series_unique_id": f"simulated-{self._series}",
                "arm_date": datetime.fromtimestamp(self._armed, UTC),
                "channels": ["threshold_1"],
                "image_dtype": first.pixels.dtype.name,
                "image_size_x": columns,
                "image_size_y": rows,
                "saturation_value": 2 ** (8 * first.pixels.dtype.itemsize) - 2,
            }
        )

    def send(self, exposure: Exposure) -> bool:
        """Send a frame; False where nobody takes it within 5 s, or within 0.1 s when nobody took the one before."""
        body, since_ns = self._compressor(exposure), round((exposure.time - self._armed) * 1e9)
        rows, columns = exposure.pixels.shape
        name, item = exposure.pixels.dtype.name, exposure.pixels.dtype.itemsize
        if self._cbor is None:
            encoding = {"none": "<", "lz4": "lz4<", "bslz4": f"bs{8 * item}-lz4<"}[self._compressor.compression]
            head = {"htype": "dimage-1.0", "series": self._series, "frame": exposure.index, "hash": ""}
            told = {"htype": "dimage_d-1.0", "shape": [columns, rows], "type": name, "encoding": encoding}
            times = {"htype": "dconfig-1.0", "start_time": since_ns, "stop_time": since_ns, "real_time": 0}
            texts = [json.dumps(part).encode() for part in (head, {**told, "size": len(body)}, times)]
            return self._send([texts[0], texts[1], body, texts[2]])
        tag = self._cbor.CBORTag
        packed = tag(56500, [self._compressor.compression, item, body])
        array = tag(40, [[rows, columns], tag(TAGS[name], body if self._compressor.compression == "none" else packed)])
        return self._send_object(
            {
                "type": "image",
                "series_id": self._series,
                "series_unique_id": f"simulated-{self._series}",
                "image_id": exposure.index,
                "start_time": [since_ns, 1_000_000_000],
                "stop_time": [since_ns, 1_000_000_000],
                "real_time": [0, 1_000_000_000],
                "data": {"threshold_1": array},
            }
        )

    def _send_object(self, said: dict[str, Any]) -> bool:
        if self._cbor is None:
            raise SourceError("objects are for the stream's CBOR form")
        return self._send([self._cbor.dumps(self._cbor.CBORTag(55799, said))])

    def _send(self, parts: Sequence[bytes]) -> bool:
        end = time.monotonic() + self._wait_s
        while time.monotonic() < end:
            if self._socket.poll(100, zmq.POLLOUT):
                self._socket.send_multipart(parts, copy=False)
                self._wait_s = LINGER_MS / 1000
                return True
        self._wait_s = 0.1
        return False

    def end(self, series: int) -> None:
        """Send the end of a series."""
        if self._cbor is None:
            self._send([json.dumps({"htype": "dseries_end-1.0", "series": self._series}).encode()])
        else:
            said = {"type": "end", "series_id": self._series, "series_unique_id": f"simulated-{self._series}"}
            self._send_object(said)

    def close(self) -> None:
        """Close, giving a connected client 5 s to take what is still to be sent."""
        self._socket.close(LINGER_MS)
        self._context.term()
