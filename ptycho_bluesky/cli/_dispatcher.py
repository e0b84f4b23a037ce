"""``ptycho-bluesky dispatcher``: the service that keeps jobs going, in the foreground."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ptycho_bluesky.cli._output import Json, emit
from ptycho_bluesky.errors import DispatchError

__all__ = ["dispatcher_command"]


def dispatcher_command(
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, for HTTPS.", exists=True)] = None,
    certificate_key: Annotated[Path | None, typer.Option(help="PEM file of its key.", exists=True)] = None,
    warm: Annotated[bool, typer.Option(help="Keep a process with the engines loaded.")] = True,
    status: Annotated[bool, typer.Option("--status", help="Tell of the one that runs, and leave.")] = False,
    json_output: Json = False,
) -> None:
    """Serve jobs until Ctrl-C or SIGTERM: starts, retries, registers and cleans them. They go on without it."""
    from ptycho_bluesky.dispatch.service import dispatcher

    if status:
        found = dispatcher()
        if found is None:
            raise DispatchError("no dispatcher runs here; `ptycho-bluesky dispatcher` starts one")
        emit({"uri": found.uri, **found.about()}, json_output)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from ptycho_bluesky.dispatch.service._serve import serve

    serve(host, port, certificate=certificate, certificate_key=certificate_key, warm=warm)
