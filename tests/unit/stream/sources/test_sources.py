"""Each source against its simulator in another process, with every fault that a detector may have."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np
import pytest

from ptycho_bluesky.errors import PtychoError, SourceError
from ptycho_bluesky.stream.simulators import (
    EigerTransmitter,
    Exposure,
    Faults,
    Hdf5Transmitter,
    RingTransmitter,
    SimulatorOptions,
    run_simulator,
    simulated_patterns,
)
from ptycho_bluesky.stream.sources import BackPressure, ClockOffset, PositionJoin, Source, SourceEnded, open_source

Read = Callable[..., list[Any]]
PATTERNS = simulated_patterns(4, 32)


def send(transmitter: Any, frames: int = 60, rate_hz: float = 0.0, delay_s: float = 0.0, **faults: int) -> Any:
    """Let a detector run in a thread of this process: cheaper than a process, where that is not the question."""
    options = SimulatorOptions(frames=frames, rate_hz=rate_hz, start_delay_s=delay_s, faults=Faults(**faults))

    def run() -> None:
        run_simulator(transmitter, PATTERNS, options)
        transmitter.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def numbers(frames: list[Any]) -> list[int]:
    return [frame.index for frame in frames]


# what is sent arrives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["json", "cbor"])
def test_eiger(simulate: Any, port: int, to_the_end: Read, stream: str) -> None:
    pytest.importorskip("cbor2", reason="needs cbor2 (extra edge)")
    with open_source(f"eiger://127.0.0.1:{port}") as source:  # before there is a detector
        assert isinstance(source, Source)
        assert source.read(0.05) == []
        assert not source.connected
        assert "nothing answers" in source.fault
        detector = simulate("eiger", port, "--frames", 200, "--rate", 0, "--stream", stream)
        frames = to_the_end(source)
        assert detector.report()["sent"] == 200
    assert numbers(frames) == list(range(200))
    assert source.counts.to_dict() == {**dict.fromkeys(source.counts.to_dict(), 0), "received": 200, "damaged": {}}
    np.testing.assert_array_equal(frames[7].pixels, simulated_patterns(200, 32)[7])
    assert all(abs(frame.time - frame.arrived) < 10 for frame in frames)


def test_a_proxy_that_publishes(to_the_end: Read) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PUB) as proxy:
        proxy.linger = 0
        port = proxy.bind_to_random_port("tcp://127.0.0.1")
        with open_source(f"eiger://127.0.0.1:{port}?socket=sub") as source:
            while not source.connected:
                time.sleep(0.02)
            time.sleep(0.3)  # the subscription is on its way
            detector = EigerTransmitter(0, "json")
            detector._socket, pushing = proxy, detector._socket
            detector.begin(0, Exposure(0, time.time(), PATTERNS[0], (0, 0)))
            detector.send(Exposure(0, time.time(), PATTERNS[0], (0, 0)))
            detector.end(0)
            assert numbers(to_the_end(source)) == [0]
        detector._socket = pushing
        detector.close()


def test_ring(simulate: Any, to_the_end: Read) -> None:
    name = f"test-{uuid.uuid4().hex}"
    with open_source(f"ring://{name}") as source:
        detector = simulate("ring", name, "--frames", 200, "--rate", 2000, "--patience", 10)
        frames = to_the_end(source)
        assert detector.report()["refused"] == 0
    assert numbers(frames) == list(range(200))
    np.testing.assert_array_equal(frames[7].pixels, simulated_patterns(200, 32)[7])


def test_hdf5_that_grows(simulate: Any, tmp_path: Path, to_the_end: Read) -> None:
    path = tmp_path / "a file.h5"
    tags = "/entry/instrument/NDAttributes/NDArray"
    uri = f"hdf5://{quote(str(path))}?index={tags}UniqueId&times={tags}TimeStamp&epoch=1990#/entry/data/data"
    with open_source(uri) as source:
        assert source.read(0.05) == []
        assert "there is no file" in source.fault
        detector = simulate("hdf5", path, "--frames", 100, "--rate", 200)
        frames = to_the_end(source)
    arrived = [frame.arrived for frame in frames]
    assert detector.report()["sent"] == 100
    assert numbers(frames) == list(range(100))
    assert arrived[-1] - arrived[0] > 0.3  # not all at the end
    assert frames[1].time - frames[0].time == pytest.approx(1 / 200, abs=1e-6)
    assert all(abs(frame.time - frame.arrived) < 10 for frame in frames)
    with open_source(f"hdf5://{quote(str(path))}#/entry/data/data") as again:  # a finished file
        assert numbers(to_the_end(again)) == list(range(100))
    np.testing.assert_array_equal(frames[7].pixels, simulated_patterns(100, 32)[7])


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"chunks": (1, 32, 32)},
        {"chunks": (3, 32, 32), "compression": "gzip"},
        {"chunks": (1, 32, 32), "shuffle": True},
    ],
)
def test_hdf5_of_any_layout(layout: dict[str, Any], tmp_path: Path, to_the_end: Read) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.repeat(PATTERNS, 5, 0).astype(">u4"), **layout)
    with open_source(f"hdf5://{tmp_path}/a.h5#/x") as source:
        frames = to_the_end(source)
    np.testing.assert_array_equal([frame.pixels for frame in frames], np.repeat(PATTERNS, 5, 0))
    assert source.counts.received == 20


# faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "cbor", "ring"])
def test_numbers_that_jump_swap_and_repeat_are_counted(kind: str, to_the_end: Read) -> None:
    name = f"test-{uuid.uuid4().hex}"
    detector = RingTransmitter(name, 4.0, 10.0) if kind == "ring" else EigerTransmitter(0, kind)  # type: ignore[arg-type]
    with open_source(detector.uri) as source:
        thread = send(detector, 60, drop_every=7, reorder_every=10, repeat_every=9, jump_after=40)
        frames = to_the_end(source)
        thread.join(10)
    lost, late, twice = {k for k in range(60) if (k + 1) % 7 == 0}, {9, 19, 29, 49}, {8, 17, 26, 35, 44, 53}
    assert sorted(numbers(frames)) == [k + 100 * (k >= 40) for k in range(60) if k not in lost]
    counts = source.counts
    assert (counts.dropped, counts.reordered, counts.repeated) == (len(lost) + 100, 5, len(twice - lost - late))
    assert (counts.restarts, counts.damaged) == (0, {})


@pytest.mark.parametrize("kind", ["json", "cbor", "ring"])
def test_a_detector_that_starts_again_begins_a_series(kind: str, to_the_end: Read) -> None:
    name = f"test-{uuid.uuid4().hex}"
    detector = RingTransmitter(name, 4.0, 10.0) if kind == "ring" else EigerTransmitter(0, kind)  # type: ignore[arg-type]
    with open_source(detector.uri) as source:
        thread = send(detector, 60, restart_after=30)
        first, second = to_the_end(source), to_the_end(source)
        thread.join(10)
    assert numbers(first) == numbers(second) == list(range(30))
    assert {frame.series for frame in first} == {0}
    assert {frame.series for frame in second} == {1}
    assert (source.counts.restarts, source.counts.repeated, source.counts.dropped) == (1, 0, 0)


def test_a_file_that_is_replaced_begins_a_series(simulate: Any, tmp_path: Path, to_the_end: Read) -> None:
    path = tmp_path / "a.h5"
    with open_source(f"hdf5://{path}#/entry/data/data") as source:
        simulate("hdf5", path, "--frames", 60, "--rate", 200, "--fault", "restart-after=30", "--compression", "blosc")
        first, second = to_the_end(source), to_the_end(source)
    assert numbers(first) == numbers(second) == list(range(30))
    assert ({frame.series for frame in first}, {frame.series for frame in second}) == ({0}, {1})


@pytest.mark.parametrize("fault", ["shape_after", "dtype_after"])
@pytest.mark.parametrize("kind", ["json", "cbor", "ring"])
def test_another_shape_or_dtype_is_refused_and_named(kind: str, fault: str, to_the_end: Read) -> None:
    name = f"test-{uuid.uuid4().hex}"
    detector = RingTransmitter(name, 4.0, 10.0) if kind == "ring" else EigerTransmitter(0, kind)  # type: ignore[arg-type]
    with open_source(detector.uri) as source:
        thread = send(detector, 30, **{fault: 20})
        frames = to_the_end(source)
        thread.join(10)
    assert numbers(frames) == list(range(20))
    other = "uint16 of shape (16, 32)" if fault == "shape_after" else "uint32 of shape (32, 32)"
    assert source.counts.damaged == {f"{other} in a series of uint16 of shape (32, 32)": 10}
    assert source.counts.dropped == 0


@pytest.mark.parametrize(
    ("kind", "compression"),
    [("json", "bslz4"), ("json", "lz4"), ("cbor", "bslz4"), ("hdf5", "bslz4"), ("hdf5", "blosc")],
)
def test_a_corrupt_chunk_costs_its_frame_alone(kind: str, compression: Any, tmp_path: Path, to_the_end: Read) -> None:
    path = tmp_path / "a.h5"
    detector: Any = Hdf5Transmitter(path, compression) if kind == "hdf5" else EigerTransmitter(0, kind, compression)  # type: ignore[arg-type]
    with open_source(detector.uri) as source:
        thread = send(detector, 30, corrupt_every=10)
        frames = to_the_end(source)
        thread.join(10)
    assert numbers(frames) == [k for k in range(30) if (k + 1) % 10]
    assert source.counts.damaged == {f"{compression} data cannot be decompressed": 3}
    assert source.counts.dropped == 0


def test_a_detector_that_falls_silent_or_dies_leaves_nothing_hanging(simulate: Any, port: int, reading: Read) -> None:
    with open_source(f"eiger://127.0.0.1:{port}") as source:
        detector = simulate("eiger", port, "--frames", 10_000, "--rate", 200, "--stream", "json")
        reading(source, lambda frames: len(frames) > 10)
        detector.process.kill()
        reading(source, lambda _: not source.connected)
        begun = time.monotonic()
        assert source.read(0.1) == []
        assert time.monotonic() - begun < 2
        assert "is gone; waiting" in source.fault
        simulate("eiger", port, "--frames", 50, "--rate", 0, "--stream", "cbor")  # back, and speaks another form
        frames = reading(source, lambda frames: len(frames) >= 50)
        assert {frame.series for frame in frames[-50:]} == {source.counts.restarts}
        assert numbers(frames)[-50:] == list(range(50))


def test_a_ring_whose_producer_died_is_found_again(to_the_end: Read, reading: Read) -> None:
    name = f"test-{uuid.uuid4().hex}"
    first = RingTransmitter(name, 4.0, 10.0)
    with open_source(f"ring://{name}") as source:
        send(first, 20, rate_hz=1000, stop_after=10).join(10)  # no end is said
        assert numbers(reading(source, lambda frames: len(frames) == 10)) == list(range(10))
        reading(source, lambda _: not source.connected)
        thread = send(RingTransmitter(name, 4.0, 10.0), 20, rate_hz=1000)
        again = to_the_end(source)
        thread.join(10)
    assert numbers(again) == list(range(20))
    assert {frame.series for frame in again} == {1}


def test_a_stage_clock_that_is_a_second_off(to_the_end: Read) -> None:
    """Frames by a detector's clock, samples by a stage's, and only their arrival here in common."""
    detector = EigerTransmitter(0, "cbor")
    join, found = PositionJoin("time", clock=ClockOffset(None), one_per_frame=True), []
    with open_source(detector.uri) as source:
        thread = send(detector, 60, rate_hz=100, drop_every=13)
        ended = False
        while not ended:
            try:
                frames = source.read(0.5)
            except SourceEnded:
                ended = True
                break
            for frame in frames:  # the stage's samples come along, 1 s ahead by its clock
                join.position_samples([frame.time + 1.0], [(frame.index, -frame.index)], frame.arrived + 1e-3)
            found += join.add(frames)
        thread.join(10)
    found += join.add([])
    assert join.clock.seconds == pytest.approx(1.0, abs=1e-6)
    assert len(found) == 56
    assert all((frame.index, -frame.index) == (y, x) for frame, y, x in found)
    assert join.unmatched == 0


# the reader's side ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["drop-oldest", "sample"])
def test_a_reader_that_is_slow_loses_by_its_own_policy(policy: Any, to_the_end: Read) -> None:
    detector = EigerTransmitter(0, "json")
    with open_source(detector.uri, BackPressure(policy=policy, capacity_mb=0.0205)) as source:  # ten frames
        send(detector, 200).join(20)
        while source.counts.received < 200:
            time.sleep(0.02)
        frames = to_the_end(source)
    assert source.counts.discarded == 200 - len(frames)
    assert len(frames) <= 10
    assert numbers(frames)[-1] == 199 if policy == "drop-oldest" else numbers(frames)[0] == 0
    assert source.counts.dropped == 0


def test_a_reader_that_blocks_loses_nothing(to_the_end: Read) -> None:
    detector = EigerTransmitter(0, "json", buffered=5)
    with open_source(detector.uri, BackPressure(policy="block", capacity_mb=0.0205)) as source:
        thread = send(detector, 200)
        time.sleep(0.3)
        frames = to_the_end(source)
        thread.join(10)
    assert numbers(frames) == list(range(200))
    assert source.counts.discarded == 0


@pytest.mark.parametrize("uri", ["ring://nobody", "eiger://127.0.0.1:9", "hdf5:///nowhere/a.h5#/data"])
def test_closing_returns_whatever_the_state(uri: str) -> None:
    source = open_source(uri)

    def read() -> None:
        with pytest.raises(SourceError, match="closed"):
            source.read(30.0)

    reader = threading.Thread(target=read)
    reader.start()
    begun = time.monotonic()
    source.close()
    source.close()
    reader.join(5)
    assert not reader.is_alive()
    assert time.monotonic() - begun < 5
    with pytest.raises(SourceError, match="has been closed"):
        source.read(0)


def test_closing_returns_while_the_queue_is_full() -> None:
    detector = EigerTransmitter(0, "json", buffered=1)
    source = open_source(detector.uri, BackPressure(policy="block", capacity_mb=0.005))
    detector.begin(0, Exposure(0, time.time(), PATTERNS[0], (0, 0)))
    for k in range(5):
        detector.send(Exposure(k, time.time(), PATTERNS[k % 4], (k % 4, 0)))
    while source.counts.received < 2:
        time.sleep(0.01)
    begun = time.monotonic()
    source.close()
    assert time.monotonic() - begun < 2
    detector._socket.close(0)
    detector.close()


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("tcp://a:1", "scheme 'tcp'.*ring://NAME.*eiger://HOST:PORT"),
        ("eiger://a", "no host or no port"),
        ("eiger://a:99999", "give eiger://"),
        ("hdf5:///a.h5", "no dataset after '#'"),
        ("hdf5://a.h5#/x", r"\(2 faults\).*three slashes"),
        ("hdf5:///a.h5?rows=3#/x", "'rows' is no option"),
        ("hdf5:///a.h5?frames=all#/x", "frames='all'"),
        ("hdf5:///a.h5?epoch=2000#/x", "give one of 1970, 1990"),
        ("eiger://a:1?socket=pub", "give one of pull, sub"),
        ("ring://", "no name"),
        ("ring://a b", "segment name"),
        ("pva://", "no name"),
    ],
)
def test_a_uri_that_is_none_is_explained(uri: str, text: str) -> None:
    with pytest.raises(PtychoError, match=text):
        open_source(uri)


def test_reading_needs_a_time_out() -> None:
    with open_source("ring://nobody") as source, pytest.raises(SourceError, match="timeout_s is inf"):
        source.read(float("inf"))


def test_a_file_that_is_no_stack_breaks_the_source_off(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((3, 4))
    with open_source(f"hdf5://{tmp_path}/a.h5#/x") as source, pytest.raises(PtychoError, match="stacked as"):
        source.read(10.0)
    with open_source(f"hdf5://{tmp_path}/a.h5#/y") as other:
        assert other.read(0.3) == []
        assert "no dataset '/y'" in other.fault or "no dataset 'y'" in other.fault
