"""``ptycho-bluesky watch``: the live image and the jobs in any browser, for the control room's wall."""

from __future__ import annotations

import secrets
import signal
import socket
from typing import Annotated

import typer

from ptycho_bluesky.cli._complete import complete_session
from ptycho_bluesky.cli._output import Json, emit, say, start_logging
from ptycho_bluesky.errors import ConfigurationError

__all__ = ["watch"]

LEAVE_S = 2


def watch(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[SESSION]",
            help="Name of a live session; the newest one unless told.",
            autocompletion=complete_session,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine a key is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8060,
    key: Annotated[
        str | None,
        typer.Option(envvar="PTYCHO_WATCH_KEY", help="Which the address must have; made up beyond this machine."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Serve the dashboard as a web page that only shows: live image, rates, jobs; until Ctrl-C.

    It finds the live session of this machine by itself (a console, a notebook, `ptycho-bluesky edge`), waits for one
    where there is none, and goes on to the next. Any number of people may look; a slow line gets fewer images.
    """
    start_logging()
    import uvicorn

    from ptycho_bluesky._session._source import ViewSource
    from ptycho_bluesky._session._watch import LOOPBACK, watch_app

    if key is None and host not in LOOPBACK:
        key = secrets.token_urlsafe(16)
    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else "this-machine" if host in ("0.0.0.0", "::") else host
    address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?key={key}" if key else "")
    say(f"watch at {address}   (Ctrl-C ends it)")
    app = watch_app(lambda: ViewSource(name), key)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=LEAVE_S)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn ends by them, and then raises them again
        signal.signal(number, lambda *_: None)
    with listening:
        uvicorn.Server(config).run(sockets=[listening])
    emit({"address": address.partition("?")[0], "state": "ended"}, json_output)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, or say why there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"{host}:{port} cannot be listened on: {error.strerror}; choose another --port (0 for any), or --host"
        ) from None
    return listening
