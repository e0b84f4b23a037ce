"""A detector that runs at a given rate, numbers and stamps its frames, and makes the mistakes it is told to make."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ptycho_bluesky.errors import SourceError

__all__ = ["Exposure", "Faults", "SimulatorOptions", "SimulatorReport", "Transmitter", "run_simulator"]

LOOK_S = 0.2
"""Longest sleep without a look whether to stop."""


class Faults(BaseModel):
    """What goes wrong, all None for nothing. Numbers count frames from the beginning, from 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drop_every: int | None = Field(default=None, ge=2)
    """Each so-manyth frame is not sent."""

    reorder_every: int | None = Field(default=None, ge=2)
    """Each so-manyth frame is sent after the one that follows it."""

    repeat_every: int | None = Field(default=None, ge=1)
    """Each so-manyth frame is sent twice."""

    corrupt_every: int | None = Field(default=None, ge=1)
    """Half of the compressed bytes of each so-manyth frame is missing."""

    jump_after: int | None = Field(default=None, ge=1)
    """After so many frames the numbers jump ahead by 100."""

    restart_after: int | None = Field(default=None, ge=1)
    """After so many frames the detector starts again from 0, in a new series."""

    shape_after: int | None = Field(default=None, ge=1)
    """After so many frames they have half as many rows."""

    dtype_after: int | None = Field(default=None, ge=1)
    """After so many frames they have four bytes a pixel instead of two, or two instead of four."""

    stop_after: int | None = Field(default=None, ge=1)
    """After so many frames nothing comes any more, and no end of the series either."""


JUMP = 100


class SimulatorOptions(BaseModel):
    """How a simulated detector runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: int = Field(default=1000, ge=1)
    """Frames in all."""

    rate_hz: float = Field(default=100.0, ge=0, le=1e6)
    """Frames a second; 0 for as fast as the transport takes them."""

    start_delay_s: float = Field(default=0.0, ge=0, le=3600)
    """Time from being reachable to the first frame; what a client needs to connect where nothing waits for it (PVA)."""

    clock_offset_s: float = Field(default=0.0, ge=-1e6, le=1e6)
    """By how much the detector's clock is ahead."""

    faults: Faults = Faults()
    """What goes wrong."""


@dataclass(frozen=True)
class Exposure:
    """One frame on its way."""

    index: int
    time: float
    """Seconds since 1970 by the detector's clock."""
    pixels: npt.NDArray[Any]
    """(H, W)."""
    key: tuple[int, int]
    """The same for the same pixels: compressed forms are kept by it."""
    corrupt: bool = False
    position: tuple[float, float] | None = None


class Transmitter(Protocol):
    """One transport's sending end."""

    uri: str
    """What to give to ``open_source``."""

    def begin(self, series: int, first: Exposure) -> None:
        """Begin a series whose frames look like `first`; the second and later series are a restart."""
        ...

    def send(self, exposure: Exposure) -> bool:
        """Send a frame; False where the transport could not take it."""
        ...

    def end(self, series: int) -> None:
        """Say that the series is complete, where the transport can."""
        ...

    def close(self) -> None:
        """Let go of the transport."""
        ...


@dataclass(frozen=True)
class SimulatorReport:
    """What a simulator did."""

    sent: int
    refused: int
    """Frames that the transport could not take."""
    seconds: float
    frames_per_second: float
    series: int


def run_simulator(
    transmitter: Transmitter,
    patterns: npt.NDArray[Any],
    options: SimulatorOptions,
    *,
    positions: npt.NDArray[np.float64] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> SimulatorReport:
    """Send frames until all are sent or `should_stop` says yes.

    Parameters
    ----------
    transmitter:
        The transport; stays open.
    patterns:
        (K, H, W); frame k is pattern k modulo K.
    options:
        Rate, number of frames, faults.
    positions:
        (K, 2) positions (y, x) of the patterns, for transports that send them along.
    should_stop:
        Asked at least five times a second.

    Raises
    ------
    SourceError
        When the patterns are no such array, or one of the faults cannot be shown by this transport.
    """
    if patterns.ndim != 3 or not patterns.size:
        raise SourceError(f"the patterns have shape {patterns.shape}; give (N, H, W)")
    faults, series, sent, refused = options.faults, 0, 0, 0
    begun = False
    started = clock = time.perf_counter()
    for batch in _exposures(patterns, positions, options):
        if faults.restart_after is not None and begun and not series and batch.number >= faults.restart_after:
            transmitter.end(series)
            series += 1
            begun = False
        if not begun:
            transmitter.begin(series, batch.exposures[0])
            begun = True
            if series == 0 and not _sleep_until(time.perf_counter() + options.start_delay_s, should_stop):
                break
            if series == 0:
                started = clock = time.perf_counter()
        if options.rate_hz:
            if not _sleep_until(clock, should_stop):
                break
            clock += 1 / options.rate_hz
        if should_stop():
            break
        for exposure in batch.exposures:
            done = transmitter.send(exposure)
            sent, refused = sent + done, refused + (not done)
    seconds = time.perf_counter() - started
    if begun and faults.stop_after is None:
        transmitter.end(series)
    return SimulatorReport(sent, refused, seconds, sent / seconds if seconds else 0.0, series + 1)


def _sleep_until(when: float, should_stop: Callable[[], bool]) -> bool:
    """Sleep until the performance counter shows `when`; False where it is to stop."""
    while (left := when - time.perf_counter()) > 0:
        if should_stop():
            return False
        time.sleep(min(left, LOOK_S))
    return True


@dataclass(frozen=True)
class _Tick:
    """What is sent at one tick of the detector's clock."""

    number: int
    exposures: list[Exposure]


def _every(count: int | None, number: int) -> bool:
    return count is not None and number % count == 0


def _after(count: int | None, number: int) -> bool:
    return count is not None and number > count


def _exposures(
    patterns: npt.NDArray[Any], positions: npt.NDArray[np.float64] | None, options: SimulatorOptions
) -> Iterator[_Tick]:
    """Yield what is sent tick by tick, with the faults."""
    faults, held = options.faults, None
    begun = time.time() + options.clock_offset_s + options.start_delay_s
    period = 1 / options.rate_hz if options.rate_hz else None
    for k in range(options.frames):
        number = k + 1
        if _after(faults.stop_after, number):
            return
        index = k + JUMP * _after(faults.jump_after, number)
        if _after(faults.restart_after, number):
            index = k - (faults.restart_after or 0)
        when = time.time() + options.clock_offset_s if period is None else begun + k * period
        exposure = _made(patterns, positions, k, index, when, faults)
        if _every(faults.drop_every, number):
            continue
        if _every(faults.reorder_every, number) and number < options.frames:
            held = exposure
            continue
        sent = [exposure] * (2 if _every(faults.repeat_every, number) else 1)
        if held is not None:
            sent, held = [*sent, held], None
        yield _Tick(k, sent)


def _made(
    patterns: npt.NDArray[Any],
    positions: npt.NDArray[np.float64] | None,
    k: int,
    index: int,
    when: float,
    faults: Faults,
) -> Exposure:
    place, number = k % len(patterns), k + 1
    pixels, variant = patterns[place], 0
    if _after(faults.shape_after, number):
        pixels, variant = pixels[: len(pixels) // 2], 1
    if _after(faults.dtype_after, number):
        pixels, variant = pixels.astype(np.uint16 if pixels.dtype.itemsize == 4 else np.uint32), variant + 2
    where = None if positions is None else (float(positions[place, 0]), float(positions[place, 1]))
    return Exposure(index, when, pixels, (place, variant), _every(faults.corrupt_every, number), where)
