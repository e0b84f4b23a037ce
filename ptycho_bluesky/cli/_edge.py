"""``ptycho-bluesky edge``: a standing edge process beside a detector, from its stream of frames to the live image."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from ptycho_bluesky.cli._input import probe_of
from ptycho_bluesky.cli._interrupt import stop_on_interrupt
from ptycho_bluesky.cli._output import Json, emit, say, start_logging
from ptycho_bluesky.errors import FormatError, report
from ptycho_bluesky.experiment import PtychographyMetadata

__all__ = ["edge"]


def edge(
    source: Annotated[str, typer.Option(help="ring://, hdf5://, pva:// or eiger:// (see docs/how-to/sources.md).")],
    positions: Annotated[
        str, typer.Option(help="Where frames were taken: 'frames' (they bring it along), or a .npy, .npz or .csv file.")
    ] = "frames",
    metadata: Annotated[
        Path | None, typer.Option(help="JSON file: a ptychography block, or a start document that has one.")
    ] = None,
    probe: Annotated[str | None, typer.Option(help="A reconstruction, or a dataset with a probe.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Network: a name or a file.")] = "in-service",
    session: Annotated[str, typer.Option(help="Name under which viewers find the live image.")] = "edge",
    output: Annotated[
        list[str] | None, typer.Option(help="Where else the image goes: pva://PREFIX or tiled+http://..., repeatable.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where final mosaics go; by default 'live' at home.")] = None,
    backend: Annotated[
        str, typer.Option(help="auto, torch, openvino or onnxruntime; with a precision: openvino:int8.")
    ] = "auto",
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Frames for one call of the network, at most.")] = 8,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default all but one.")] = None,
    ring_mib: Annotated[int, typer.Option(min=1, help="Shared memory for frames that wait.")] = 256,
    policy: Annotated[
        Literal["block", "drop-oldest", "sample"], typer.Option(help="What to do with more than can be inferred.")
    ] = "block",
    capacity_mb: Annotated[float, typer.Option(min=0.1, help="What waits before that policy begins.")] = 512.0,
    first_index: Annotated[int, typer.Option(help="Number of the frame that position 0 belongs to.")] = 0,
    clock_offset: Annotated[
        str, typer.Option(help="Stage clock minus detector clock in seconds, or 'auto': for positions by time.")
    ] = "0",
    silence: Annotated[float, typer.Option(min=0.1, help="A run ends when nothing came for so long, seconds.")] = 30.0,
    runs: Annotated[int | None, typer.Option(min=1, help="Stop after so many runs; by default serve on.")] = None,
    json_output: Json = False,
) -> None:
    """Serve live images of a detector's stream until stopped; Ctrl-C or SIGTERM finishes the run that is open."""
    start_logging()
    from ptycho_bluesky.stream import LiveSession
    from ptycho_bluesky.stream.feed import PositionTable, SourceFeed
    from ptycho_bluesky.stream.outputs import check_outputs
    from ptycho_bluesky.stream.sources import BackPressure, open_source

    table = PositionTable.read(positions, first_index=first_index, clock_offset_s=_seconds(clock_offset))
    block, light = _metadata(metadata), None if probe is None else probe_of(probe)
    check_outputs(output or [])
    stopping = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopping
        stopping = True

    before = signal.signal(signal.SIGTERM, stop)
    options: dict[str, Any] = {"name": session, "probe": light, "folder": folder, "batch": batch, "threads": threads}
    options |= {"backend": backend, "ring_mib": ring_mib, "outputs": output or []}
    try:
        with (
            open_source(source, BackPressure(policy=policy, capacity_mb=capacity_mb)) as frames,
            LiveSession(model, **options) as live,
            stop_on_interrupt("the image of the run that is open") as interrupted,
        ):
            feed = SourceFeed(frames, live, block, table, silence)
            live.wait_ready()
            say(f"session {session!r} serves {source} with {live.status().model}")
            feed.serve(lambda: stopping or interrupted() or (runs is not None and len(feed.uids) >= runs))
            results = [live.wait_result(uid, 60.0) for uid in feed.uids[-100:]]
            counts = frames.counts.to_dict()
    finally:
        signal.signal(signal.SIGTERM, before)
    emit({"session": session, "source": source, "runs": results, "counts": counts}, json_output)


def _seconds(given: str) -> float | None:
    if given == "auto":
        return None
    try:
        return float(given)
    except ValueError:
        raise FormatError(f"clock-offset {given!r}; give seconds, or 'auto' to estimate it") from None


def _metadata(path: Path | None) -> PtychographyMetadata:
    """Return the metadata of a file; without one, positions are in object pixels and the probe is not known."""
    if path is None:
        return PtychographyMetadata(frames_key="frames", position_keys=("y", "x"), position_unit="px")
    try:
        given = json.loads(path.read_text())
        return PtychographyMetadata.model_validate(given.get("ptychography", given))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise FormatError(report(f"metadata {path}", faults)) from error
    except (OSError, ValueError, AttributeError) as error:
        raise FormatError(f"metadata {path}: {error}; give a JSON file with a ptychography block") from error
