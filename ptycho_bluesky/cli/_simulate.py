"""``ptycho-bluesky simulate``: detectors without hardware, one for each kind of source, with faults on request."""

from __future__ import annotations

import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from ptycho_bluesky.cli._input import load_input
from ptycho_bluesky.cli._output import Json, emit, say, start_logging
from ptycho_bluesky.errors import SourceError, report

if TYPE_CHECKING:
    from ptycho_bluesky.stream.simulators import Transmitter

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Detectors without hardware: ring, hdf5, pva, eiger.")

Frames = Annotated[int, typer.Option(min=1, help="Frames to send.")]
Rate = Annotated[float, typer.Option(min=0, help="Frames a second; 0 for as fast as possible.")]
Size = Annotated[int, typer.Option(min=16, help="Pixels along a side of simulated frames.")]
Dtype = Annotated[Literal["uint8", "uint16", "uint32"], typer.Option(help="Of simulated frames.")]
Input = Annotated[str | None, typer.Option("--input", "-i", help="Dataset to send instead of simulated frames.")]
Delay = Annotated[float, typer.Option(min=0, help="Seconds from being reachable to the first frame.")]
Offset = Annotated[float, typer.Option(help="Seconds by which the detector's clock is ahead.")]
Fault = Annotated[
    list[str] | None,
    typer.Option(
        help="What goes wrong, NAME=COUNT, any number of times: drop-every, reorder-every, repeat-every, "
        "corrupt-every, jump-after, restart-after, shape-after, dtype-after, stop-after."
    ),
]
Compressed = Annotated[Literal["none", "bslz4", "lz4", "blosc"], typer.Option(help="How frames are compressed.")]

DISTINCT_MB = 64
"""Simulated frames are repeated after this much."""


def _faults(given: list[str]) -> dict[str, str]:
    wrong = [repr(text) for text in given if "=" not in text]
    if wrong:
        raise SourceError(report("faults", [f"{text} has no '='" for text in wrong]) + "; give NAME=COUNT")
    return {name.replace("-", "_"): count for name, _, count in (text.partition("=") for text in given)}


def _run(
    transmitter: Transmitter, frames: int, rate: float, size: int, dtype: str, source: str | None, delay: float,
    offset: float, fault: list[str] | None, json_output: bool,
) -> None:  # fmt: skip
    """Send frames by `transmitter`, until they are sent or the process is told to stop, and report."""
    from ptycho_bluesky.stream.simulators import SimulatorOptions, run_simulator

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        patterns, positions = _patterns(frames, size, dtype, source)
        try:
            options = SimulatorOptions.model_validate(
                {
                    "frames": frames,
                    "rate_hz": rate,
                    "start_delay_s": delay,
                    "clock_offset_s": offset,
                    "faults": _faults(fault or []),
                }
            )
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise SourceError(report("simulator", faults)) from error
        say(f"sending; read it from {transmitter.uri}")
        result = run_simulator(transmitter, patterns, options, positions=positions, should_stop=stopped.is_set)
    finally:
        transmitter.close()
    if result.refused and not result.sent:
        raise SourceError(
            f"nobody took a frame from {transmitter.uri} ({result.refused} refused); begin to read it first, e.g. by "
            "`ptycho-bluesky receive`, or give --start-delay"
        )
    emit({"uri": transmitter.uri, **asdict(result)}, json_output)


def _patterns(frames: int, size: int, dtype: str, source: str | None) -> tuple[Any, Any]:
    import numpy as np

    from ptycho_bluesky.stream.simulators import simulated_patterns

    if source is not None:
        dataset = load_input(source)
        return _counts(np.asarray(dataset.frames[: min(frames, len(dataset))])), dataset.positions
    each = size * size * np.dtype(dtype).itemsize
    return simulated_patterns(min(frames, max(4, DISTINCT_MB * 10**6 // each // 4)), size, dtype), None


def _counts(frames: Any) -> Any:
    """Return frames as a detector counts them: recorded ones may be floats, or signed."""
    import numpy as np

    if frames.dtype.kind == "u" and frames.dtype.itemsize <= 4:
        return frames
    whole = np.rint(np.nan_to_num(frames)).clip(0, 2**31)
    return whole.astype(np.uint16 if whole.max(initial=0) < 2**16 else np.uint32)


@app.command()
def ring(
    name: Annotated[str, typer.Argument(help="Of the ring in shared memory; must be free.")],
    frames: Frames = 1000, rate: Rate = 100.0, size: Size = 512, dtype: Dtype = "uint16", source: Input = None,
    start_delay: Delay = 0.0, clock_offset: Offset = 0.0, fault: Fault = None,
    capacity_mb: Annotated[float, typer.Option(min=0.1, help="Size of the ring.")] = 64.0,
    patience: Annotated[float, typer.Option(min=0, help="Seconds that a frame waits for room.")] = 0.0,
    json_output: Json = False,
) -> None:  # fmt: skip
    """Put frames into a ring in shared memory, on this machine."""
    start_logging()
    from ptycho_bluesky.stream.simulators import RingTransmitter

    made = RingTransmitter(name, capacity_mb, patience)
    _run(made, frames, rate, size, dtype, source, start_delay, clock_offset, fault, json_output)


@app.command()
def hdf5(
    path: Annotated[Path, typer.Argument(help="File to make or to replace.")],
    frames: Frames = 1000, rate: Rate = 100.0, size: Size = 512, dtype: Dtype = "uint16", source: Input = None,
    start_delay: Delay = 0.0, clock_offset: Offset = 0.0, fault: Fault = None,
    compression: Compressed = "bslz4",
    json_output: Json = False,
) -> None:  # fmt: skip
    """Write a file that grows, as areaDetector's HDF5 plugin does in SWMR mode."""
    start_logging()
    from ptycho_bluesky.cli._input import check_writable
    from ptycho_bluesky.stream.simulators import Hdf5Transmitter

    check_writable(path)
    made = Hdf5Transmitter(path, compression)
    _run(made, frames, rate, size, dtype, source, start_delay, clock_offset, fault, json_output)


@app.command()
def pva(
    record: Annotated[str, typer.Argument(help="Name of the NTNDArray record to serve.")],
    frames: Frames = 1000, rate: Rate = 100.0, size: Size = 512, dtype: Dtype = "uint16", source: Input = None,
    start_delay: Delay = 2.0, clock_offset: Offset = 0.0, fault: Fault = None,
    compression: Compressed = "none",
    json_output: Json = False,
) -> None:  # fmt: skip
    """Serve an areaDetector's frames by pvAccess; interfaces and ports by the EPICS_PVAS_* variables."""
    start_logging()
    from ptycho_bluesky.stream.simulators import PvaTransmitter

    made = PvaTransmitter(record, compression)
    _run(made, frames, rate, size, dtype, source, start_delay, clock_offset, fault, json_output)


@app.command()
def eiger(
    port: Annotated[int, typer.Argument(min=0, max=65535, help="To listen on; 0 for any.")] = 9999,
    frames: Frames = 1000, rate: Rate = 100.0, size: Size = 512, dtype: Dtype = "uint16", source: Input = None,
    start_delay: Delay = 0.0, clock_offset: Offset = 0.0, fault: Fault = None,
    compression: Compressed = "bslz4",
    stream: Annotated[Literal["json", "cbor"], typer.Option(help="Stream 1 (JSON) or stream 2 (CBOR).")] = "cbor",
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    json_output: Json = False,
) -> None:  # fmt: skip
    """Push frames by ZMQ, as a DECTRIS detector does."""
    start_logging()
    from ptycho_bluesky.stream.simulators import EigerTransmitter

    made = EigerTransmitter(port, stream, compression, host)
    _run(made, frames, rate, size, dtype, source, start_delay, clock_offset, fault, json_output)
