"""What an Eiger's stream says, in both of its forms, as the same few events.

Stream 1: multipart ZMQ messages, JSON with binary parts (SIMPLON API 1.8, "Stream"). Stream 2: one CBOR object a
message, arrays as typed arrays (RFC 8746) whose bytes may be compressed under tag 56500 (SIMPLON API 2, "Stream V2").
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.stream._optional import optional
from ptycho_bluesky.stream.sources._codec import decompress
from ptycho_bluesky.stream.sources._frame import DamagedFrame

__all__ = ["Event", "Image", "SeriesEnd", "SeriesStart", "parse_cbor", "parse_json"]

Bytes = bytes | memoryview
Pixels = npt.NDArray[Any]

JSON_CODECS = {"<": "none", "": "none", "lz4<": "lz4", "bs8-lz4<": "bslz4", "bs16-lz4<": "bslz4", "bs32-lz4<": "bslz4"}
TYPED = {64: "u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8", 72: "i1", 73: ">i2"}
TYPED |= {74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8", 81: ">f4", 82: ">f8", 85: "<f4", 86: "<f8"}
ROW_MAJOR, COMPRESSED, SELF_DESCRIBED = 40, 56500, 55799


@dataclass(frozen=True)
class SeriesStart:
    """The detector was armed."""

    series: int
    armed_at: float
    """Seconds since 1970, to which the images' times are relative; NaN where the message does not say."""
    settings: dict[str, Any]


@dataclass(frozen=True)
class Image:
    """One frame."""

    series: int
    index: int
    since_armed_s: float
    """Start of the exposure in seconds since the detector was armed; NaN where the message does not say."""
    pixels: Callable[[], Pixels]
    """Decompress; raises DamagedFrame."""


@dataclass(frozen=True)
class SeriesEnd:
    """The detector was disarmed, or the series is complete."""

    series: int


Event = SeriesStart | Image | SeriesEnd


def parse_json(parts: Sequence[Bytes]) -> Event:
    """Return what a multipart message of stream 1 says.

    Raises
    ------
    DamagedFrame
        When it cannot be understood.
    """
    try:
        head = json.loads(bytes(parts[0]))
        kind, series = str(head["htype"]), int(head["series"])
        if kind.startswith("dheader-"):
            settings = json.loads(bytes(parts[1])) if len(parts) > 1 and head.get("header_detail") != "none" else {}
            return SeriesStart(series, math.nan, settings)
        if kind.startswith("dseries_end-"):
            return SeriesEnd(series)
        if kind.startswith("dimage-"):
            shape, times = json.loads(bytes(parts[1])), json.loads(bytes(parts[3])) if len(parts) > 3 else {}
            begun = times.get("start_time")
            since = math.nan if begun is None else float(begun) * 1e-9
            return Image(series, int(head["frame"]), since, _json_pixels(shape, parts[2]))
    except (ValueError, KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise DamagedFrame("message that is no Eiger stream 1") from error
    raise DamagedFrame(f"message of type {kind[:40]!r}")


def _json_pixels(described: dict[str, Any], blob: Bytes) -> Callable[[], Pixels]:
    columns, rows = (int(n) for n in described["shape"][:2])  # the detector gives x first
    dtype, encoding = np.dtype(str(described["type"])).newbyteorder("<"), str(described["encoding"])

    def pixels() -> Pixels:
        if encoding not in JSON_CODECS:
            raise DamagedFrame(f"encoding {encoding!r} is not known here; known are {', '.join(JSON_CODECS)}")
        return decompress(blob, JSON_CODECS[encoding], dtype, (rows, columns))

    return pixels


def parse_cbor(message: Bytes, channel: str | None = None) -> Event:
    """Return what a message of stream 2 says; of several channels (thresholds) the one named, else the first.

    Raises
    ------
    DamagedFrame
        When it cannot be understood.
    SourceError
        When cbor2 (extra ``edge``) is missing.
    """
    cbor2 = optional("cbor2", "edge")
    try:
        said = cbor2.loads(bytes(message))
        if isinstance(said, cbor2.CBORTag) and said.tag == SELF_DESCRIBED:
            said = said.value
        kind, series = str(said["type"]), int(said["series_id"])
        if kind == "start":
            armed = said.get("arm_date")
            if isinstance(armed, str):
                armed = datetime.fromisoformat(armed)
            return SeriesStart(series, armed.timestamp() if isinstance(armed, datetime) else math.nan, dict(said))
        if kind == "end":
            return SeriesEnd(series)
        if kind == "image":
            images = said["data"]
            if channel is not None and channel not in images:
                raise DamagedFrame(f"no channel {channel!r}, only {', '.join(map(str, images))}")
            array = images[channel if channel is not None else next(iter(images))]
            since = _seconds(said.get("start_time"))
            return Image(series, int(said["image_id"]), since, lambda: _cbor_pixels(array))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, StopIteration, cbor2.CBORError) as error:
        raise DamagedFrame("message that is no Eiger stream 2") from error
    raise DamagedFrame(f"message of type {kind[:40]!r}")


def _seconds(rational: Any) -> float:
    """Return a time that stream 2 gives as [numerator, denominator]."""
    return float(rational[0]) / float(rational[1]) if rational is not None else math.nan


def _cbor_pixels(array: Any) -> Pixels:
    """Return a multi-dimensional typed array, tag 40: [dimensions, typed array]."""
    try:
        if array.tag != ROW_MAJOR:
            raise DamagedFrame(f"array with tag {array.tag} instead of {ROW_MAJOR}")
        (rows, columns), typed = array.value
        dtype, body = TYPED[typed.tag], typed.value
        if isinstance(body, bytes):
            return decompress(body, "none", dtype, (rows, columns))
        if body.tag != COMPRESSED:
            raise DamagedFrame(f"array whose bytes have tag {body.tag} instead of {COMPRESSED}")
        codec, _, data = body.value
        return decompress(data, str(codec), dtype, (rows, columns))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFrame("array that is not one of RFC 8746") from error
