"""``ptycho-bluesky receive``: whether a stream of frames arrives, how fast, and what is lost on the way."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import typer

from ptycho_bluesky.cli._output import Json, emit, progress, start_logging
from ptycho_bluesky.errors import SourceError

__all__ = ["receive"]

WAIT_S = 0.2


def receive(
    uri: Annotated[str, typer.Argument(help="ring://, hdf5://, pva:// or eiger:// (see docs/how-to/sources.md).")],
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Stop after so long.")] = 30.0,
    silence: Annotated[float, typer.Option(min=0.1, help="Stop when nothing came for so long, seconds.")] = 10.0,
    policy: Annotated[
        Literal["block", "drop-oldest", "sample"], typer.Option(help="What to do with more than can be read.")
    ] = "block",
    capacity_mb: Annotated[float, typer.Option(min=0.1, help="What the queue holds.")] = 512.0,
    json_output: Json = False,
) -> None:
    """Read frames from a source and count what is wrong with them; exit status 1 where none came."""
    start_logging()
    from ptycho_bluesky.stream.sources import BackPressure, SourceEnded, open_source

    begun = last = time.monotonic()
    first: float | None = None
    got, ended, newest, size = 0, False, None, 0
    with (
        open_source(uri, BackPressure(policy=policy, capacity_mb=capacity_mb)) as source,
        progress("receiving", frames) as update,
    ):
        while (now := time.monotonic()) < begun + seconds and now < last + silence:
            try:
                new = source.read(WAIT_S)
            except SourceEnded:
                ended = True
                break
            if new:
                last = time.monotonic()
                first = last if first is None else first
                newest, got, size = new[-1], got + len(new), size + sum(f.pixels.nbytes for f in new)
                update(got)
                if frames is not None and got >= frames:
                    break
        fault = source.fault
    if newest is None or first is None:
        raise SourceError(f"no frame came from {uri} ({fault or 'connected'}): {source.counts.to_dict()}")
    took = max(last - first, 1e-9)
    result: dict[str, Any] = {"uri": uri, "frames": got, "seconds": round(took, 3), "ended": ended}
    result |= {"frames_per_second": round(got / took, 1), "gbit_per_second": round(size * 8e-9 / took, 3)}
    result |= {"shape": list(newest.pixels.shape), "dtype": newest.pixels.dtype.name, "series": newest.series}
    emit(result | {"counts": source.counts.to_dict()}, json_output)
