"""What simulated detectors send, when, and with which mistakes."""

from __future__ import annotations

import time
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream.simulators import (
    EigerTransmitter,
    Exposure,
    Faults,
    Hdf5Transmitter,
    RingTransmitter,
    SimulatorOptions,
    compress,
    run_simulator,
    simulated_patterns,
)

PATTERNS = np.arange(3, dtype=np.uint16)[:, None, None] * np.ones((1, 4, 6), np.uint16)


class Notebook:
    """A transmitter that writes down what it is given."""

    uri = "notebook://"

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.frames: list[Exposure] = []

    def begin(self, series: int, first: Exposure) -> None:
        self.said.append(("begin", series))

    def send(self, exposure: Exposure) -> bool:
        self.said.append(exposure.index)
        self.frames.append(exposure)
        return exposure.index != 1

    def end(self, series: int) -> None:
        self.said.append(("end", series))

    def close(self) -> None:
        self.said.append("closed")


def sent(frames: int, rate_hz: float = 0.0, **faults: int) -> Notebook:
    book = Notebook()
    run_simulator(book, PATTERNS, SimulatorOptions(frames=frames, rate_hz=rate_hz, faults=Faults(**faults)))
    return book


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({}, [("begin", 0), 0, 1, 2, 3, 4, 5, ("end", 0)]),
        ({"drop_every": 3}, [("begin", 0), 0, 1, 3, 4, ("end", 0)]),
        ({"reorder_every": 2}, [("begin", 0), 0, 2, 1, 4, 3, 5, ("end", 0)]),
        ({"repeat_every": 4}, [("begin", 0), 0, 1, 2, 3, 3, 4, 5, ("end", 0)]),
        ({"jump_after": 4}, [("begin", 0), 0, 1, 2, 3, 104, 105, ("end", 0)]),
        ({"restart_after": 4}, [("begin", 0), 0, 1, 2, 3, ("end", 0), ("begin", 1), 0, 1, ("end", 1)]),
        ({"stop_after": 2}, [("begin", 0), 0, 1]),
    ],
)
def test_faults(faults: dict[str, int], said: list[Any]) -> None:
    assert sent(6, **faults).said == said


def test_pixels_go_round_and_change_when_told() -> None:
    frames = sent(8, shape_after=5, dtype_after=6, corrupt_every=4).frames
    assert [int(frame.pixels[0, 0]) for frame in frames] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert [frame.pixels.shape for frame in frames[4:6]] == [(4, 6), (2, 6)]
    assert [frame.pixels.dtype.name for frame in frames[5:7]] == ["uint16", "uint32"]
    assert [frame.corrupt for frame in frames] == [False, False, False, True] * 2
    assert len({frame.key for frame in frames}) == 3 + 1 + 2


def test_the_rate_is_kept_and_stamps_are_the_detectors_clock() -> None:
    book, begun = Notebook(), time.time()
    report = run_simulator(book, PATTERNS, SimulatorOptions(frames=20, rate_hz=100, clock_offset_s=3600))
    stamps = [frame.time for frame in book.frames]
    assert np.allclose(np.diff(stamps), 0.01, atol=1e-6)
    assert 3600 <= stamps[0] - begun < 3605
    assert 0.18 < report.seconds < 5
    assert (report.sent, report.refused) == (19, 1)


def test_it_stops_when_told() -> None:
    book = Notebook()
    options = SimulatorOptions(frames=10, rate_hz=0.001)
    report = run_simulator(book, PATTERNS, options, should_stop=lambda: bool(book.frames))
    assert report.sent == 1
    assert book.said[-1] == ("end", 0)


@given(size=st.integers(16, 40), dtype=st.sampled_from(["uint8", "uint16", "uint32"]))
@settings(max_examples=10, deadline=None)
def test_simulated_patterns(size: int, dtype: str) -> None:
    frames = simulated_patterns(3, size, dtype, photons=3000)
    assert frames.shape == (3, size, size)
    assert frames.dtype == dtype
    photons = frames.sum(axis=(1, 2))
    assert 1500 < photons.min() <= photons.max() < 3300
    assert not np.array_equal(frames[0], frames[1])
    np.testing.assert_array_equal(frames, simulated_patterns(3, size, dtype, photons=3000))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda path: simulated_patterns(0, 32), "0 patterns of 32 x 32"),
        (lambda path: simulated_patterns(1, 32, "float32"), "float32"),
        (lambda path: EigerTransmitter(0, compression="blosc"), "does not compress by blosc"),
        (lambda path: Hdf5Transmitter(path / "a.h5", "lz4"), "choose none, bslz4 or blosc"),
        (lambda path: run_simulator(Notebook(), np.zeros((4, 4)), SimulatorOptions()), r"shape \(4, 4\)"),
    ],
)
def test_wrong_use_is_explained(wrong: Any, text: str, tmp_path: Any) -> None:
    with pytest.raises(SourceError, match=text):
        wrong(tmp_path)


def test_faults_that_a_transport_cannot_have_are_refused(tmp_path: Any) -> None:
    ring = RingTransmitter(f"test-{uuid.uuid4().hex}")
    try:
        with pytest.raises(SourceError, match="cannot be corrupted"):
            ring.send(Exposure(0, 0.0, PATTERNS[0], (0, 0), corrupt=True))
    finally:
        ring.close()
    file = Hdf5Transmitter(tmp_path / "a.h5")
    file.begin(0, Exposure(0, 0.0, PATTERNS[0], (0, 0)))
    with pytest.raises(SourceError, match="one shape and one dtype"):
        file.send(Exposure(0, 0.0, PATTERNS[0][:2], (0, 1)))
    file.close()
    eiger = EigerTransmitter(0, "json", "none")
    with pytest.raises(SourceError, match="choose a compression"):
        eiger.send(Exposure(0, 0.0, PATTERNS[0], (0, 0), corrupt=True))
    with pytest.raises(SourceError, match="cannot be listened on"):
        EigerTransmitter(int(eiger.uri.rsplit(":", 1)[1]), "json")
    eiger.close()


def test_a_ring_without_room_drops_and_says_so() -> None:
    ring = RingTransmitter(f"test-{uuid.uuid4().hex}", capacity_mb=0.5)
    try:
        frame = Exposure(0, 0.0, np.zeros((256, 256), np.uint16), (0, 0))
        assert [ring.send(frame) for _ in range(5)] == [True, True, True, False, False]
    finally:
        ring.close()


def test_compressed_sizes() -> None:
    frame = simulated_patterns(1, 64)[0]
    sizes = {name: len(compress(frame, name)) for name in ("none", "bslz4", "lz4", "blosc")}
    assert sizes["none"] == 64 * 64 * 2
    assert max(sizes["bslz4"], sizes["lz4"], sizes["blosc"]) < sizes["none"]


@pytest.mark.parametrize("wrong", [{"drop_every": 1}, {"stop_after": 0}, {"explode_after": 1}])
def test_faults_are_bounded(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Faults(**wrong)
