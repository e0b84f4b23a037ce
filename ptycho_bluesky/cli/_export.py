"""``ptycho-bluesky export``: a run with its reconstruction, from the catalogue to one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptycho_bluesky.cli._input import check_writable
from ptycho_bluesky.cli._output import Json, emit, start_logging
from ptycho_bluesky.errors import CatalogError

__all__ = ["export"]


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Uid of the run, its beginning, or its scan id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, e.g. scan.cxi.")],
    job: Annotated[str | None, typer.Option(help="Id of the reconstruction; by default the latest.")] = None,
    result: Annotated[bool, typer.Option("--result/--no-result", help="With the reconstruction.")] = True,
    json_output: Json = False,
) -> None:
    """Export a run and its reconstruction to one NXcxi_ptycho file, which pty-chi's, PtyPy's and CXI readers open."""
    start_logging()
    from ptycho_bluesky.catalog import RAW, connect, export_run

    check_writable(output)
    client = connect()
    try:
        uid = str(client[RAW][int(run) if run.isdecimal() and len(run) < 8 else run].metadata["start"]["uid"])
    except (KeyError, ValueError) as error:
        raise CatalogError(f"no run {run!r} is in this catalogue ({error}); give its uid or its scan id") from None
    written = export_run(client, uid, output, job_id=job, result=result)
    client.context.close()
    emit(
        {
            "raw_uid": uid,
            "job_id": None if written is None else written.metadata["job_id"],
            "r_factor": None if written is None else written.metadata["r_factor"],
            "bytes": output.stat().st_size,
            "output": str(output),
        },
        json_output,
    )
