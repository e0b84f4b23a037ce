"""Both forms of the Eiger's stream, from bytes written down by hand as the interface descriptions have them."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest

from ptycho_bluesky.stream.simulators import compress
from ptycho_bluesky.stream.sources import DamagedFrame
from ptycho_bluesky.stream.sources._eiger_messages import Image, SeriesEnd, SeriesStart, parse_cbor, parse_json

cbor2 = pytest.importorskip("cbor2", reason="needs cbor2 (extra edge)")

FRAME = np.random.default_rng(1).poisson(2, (6, 10)).astype(np.uint16)


def parts(*said: object) -> list[bytes]:
    return [part if isinstance(part, bytes) else json.dumps(part).encode() for part in said]


def image_1(encoding: str, body: bytes, kind: str = "uint16") -> list[bytes]:
    return parts(
        {"htype": "dimage-1.0", "series": 7, "frame": 12, "hash": "fc67f000d08fe6b380ea9434b8362d22"},
        {"htype": "dimage_d-1.0", "shape": [10, 6], "type": kind, "encoding": encoding, "size": len(body)},
        body,
        {"htype": "dconfig-1.0", "start_time": 834759834259, "stop_time": 834759934259, "real_time": 100000},
    )


@pytest.mark.parametrize(
    ("encoding", "codec", "dtype"),
    [
        ("<", "none", "uint16"),
        ("lz4<", "lz4", "uint16"),
        ("bs16-lz4<", "bslz4", "uint16"),
        ("bs32-lz4<", "bslz4", "uint32"),
    ],
)
def test_images_of_stream_1(encoding: str, codec: str, dtype: str) -> None:
    frame = FRAME.astype(dtype)
    event = parse_json(image_1(encoding, compress(frame, codec), dtype))  # type: ignore[arg-type]
    assert isinstance(event, Image)
    assert (event.series, event.index) == (7, 12)
    assert event.since_armed_s == pytest.approx(834.759834259)
    np.testing.assert_array_equal(event.pixels(), frame)


def test_begin_and_end_of_stream_1() -> None:
    start = parse_json(parts({"htype": "dheader-1.0", "series": 7, "header_detail": "basic"}, {"nimages": 3}))
    assert isinstance(start, SeriesStart)
    assert (start.series, start.settings) == (7, {"nimages": 3})
    assert math.isnan(start.armed_at)
    assert parse_json(parts({"htype": "dheader-1.0", "series": 8, "header_detail": "none"})) == SeriesStart(
        8, pytest.approx(math.nan, nan_ok=True), {}
    )
    assert parse_json(parts({"htype": "dseries_end-1.0", "series": 7})) == SeriesEnd(7)


def image_2(typed: object, shape: tuple[int, int] = (6, 10), **changes: object) -> bytes:
    array = cbor2.CBORTag(40, [list(shape), typed])
    said = {"type": "image", "series_id": 3, "series_unique_id": "01H", "image_id": 5, "start_time": [3, 2]}
    said |= {"data": {"threshold_1": array, "threshold_2": cbor2.CBORTag(40, [[1, 1], cbor2.CBORTag(64, b"\x09")])}}
    return bytes(cbor2.dumps(cbor2.CBORTag(55799, said | changes)))


@pytest.mark.parametrize(
    ("tag", "dtype"), [(64, "u1"), (65, ">u2"), (69, "<u2"), (70, "<u4"), (66, ">u4"), (78, "<i4"), (85, "<f4")]
)
@pytest.mark.parametrize("codec", [None, "bslz4"])
def test_images_of_stream_2(tag: int, dtype: str, codec: str | None) -> None:
    frame = FRAME.astype(dtype)
    body = frame.tobytes()
    packed = body if codec is None else cbor2.CBORTag(56500, [codec, frame.itemsize, compress(frame, "bslz4")])
    event = parse_cbor(image_2(cbor2.CBORTag(tag, packed)))
    assert isinstance(event, Image)
    assert (event.series, event.index, event.since_armed_s) == (3, 5, 1.5)
    np.testing.assert_array_equal(event.pixels(), frame)


def test_channels_of_stream_2() -> None:
    message = image_2(cbor2.CBORTag(69, FRAME.tobytes()))
    event = parse_cbor(message, "threshold_2")
    assert isinstance(event, Image)
    assert event.pixels().tolist() == [[9]]
    with pytest.raises(DamagedFrame, match=r"'threshold_9', only threshold_1, threshold_2"):
        parse_cbor(message, "threshold_9")


def test_begin_and_end_of_stream_2() -> None:
    armed = datetime(2026, 5, 1, 12, tzinfo=UTC)
    start = parse_cbor(cbor2.dumps({"type": "start", "series_id": 3, "arm_date": armed, "number_of_images": 9}))
    assert isinstance(start, SeriesStart)
    assert start.armed_at == armed.timestamp()
    assert start.settings["number_of_images"] == 9
    assert parse_cbor(cbor2.dumps({"type": "end", "series_id": 3})) == SeriesEnd(3)


@pytest.mark.parametrize(
    "message",
    [
        [b"not json"],
        [b'{"htype": 1}'],
        [b'{"htype": "dimage-1.0", "series": 1, "frame": 0}'],
        [b"[]"],
        [b'{"htype": "dother-1.0", "series": 1}'],
        [b'{"htype": "dimage-1.0", "series": 1, "frame": 0}', b'{"shape": 3}', b"", b"{}"],
    ],
)
def test_what_is_no_stream_1_is_damaged(message: list[bytes]) -> None:
    with pytest.raises(DamagedFrame):
        parse_json(message)


def test_what_is_no_stream_2_is_damaged() -> None:
    whole = image_2(cbor2.CBORTag(69, FRAME.tobytes()))
    for message in (b"", b"\xff\xff", whole[:40], cbor2.dumps([1]), cbor2.dumps({"type": "image", "series_id": 1})):
        with pytest.raises(DamagedFrame):
            parse_cbor(message)
    for typed in (FRAME.tobytes(), cbor2.CBORTag(99, b""), cbor2.CBORTag(69, cbor2.CBORTag(1, 2)), 3):
        event = parse_cbor(image_2(typed))
        assert isinstance(event, Image)
        with pytest.raises(DamagedFrame):
            event.pixels()
    unknown = parse_json(image_1("zip<", b""))
    assert isinstance(unknown, Image)
    with pytest.raises(DamagedFrame, match=r"'zip<' is not known"):
        unknown.pixels()
