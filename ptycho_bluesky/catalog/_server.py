"""The embedded Tiled server's own process: ``python -m ptycho_bluesky.catalog._server FOLDER IDLE_S PORT``.

It listens on loopback alone, keeps its data in FOLDER, and ends when nobody has used it for IDLE_S seconds and no
process that called :func:`~ptycho_bluesky.catalog.connect` is alive.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from bluesky_tiled_plugins.exporters import json_seq_exporter
from tiled.catalog import from_uri
from tiled.config import Authentication, StreamingCacheConfig
from tiled.media_type_registration import default_serialization_registry
from tiled.server.app import build_app

from ptycho_bluesky._locks import file_lock

__all__: list[str] = []

logger = logging.getLogger("ptycho_bluesky.catalog.server")

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Scope]], Callable[[Scope], Awaitable[None]]], Awaitable[None]]


class _Activity:
    """ASGI layer that knows when the last request ended, and whether one (or a websocket) is under way."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._open = 0
        self._last = time.monotonic()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
            self._last = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while one is under way."""
        return 0.0 if self._open else time.monotonic() - self._last


def _listen(port: int) -> socket.socket:
    """Listen on the port of last time, so that clients of a restarted server find it again; else on any free one."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return socket.create_server(("127.0.0.1", 0))


def _app(folder: Path) -> App:
    database = folder / "catalog.db"
    (folder / "data").mkdir(exist_ok=True)
    # Without the exporter, run.documents() is answered with HTTP 406. It must be known before the app is built.
    default_serialization_registry.register("BlueskyRun", "application/json-seq", json_seq_exporter)
    tree = from_uri(
        database,
        writable_storage=[folder / "data", f"duckdb:///{folder / 'storage.duckdb'}"],
        # Detectors write where they please. The process runs with its user's rights and its key is that user's
        # alone, so it can hand out nothing that the user could not read anyway.
        readable_storage=["/"],
        init_if_not_exists=not database.exists(),  # the check itself would take 3 s
        cache_config=StreamingCacheConfig(uri="memory").model_dump(),
    )
    key = (folder / "api_key").read_text().strip()
    app: App = build_app(tree, authentication=Authentication(single_user_api_key=key))
    return app


async def _end_when_idle(server: uvicorn.Server, activity: _Activity, folder: Path, idle_s: float) -> None:
    while True:
        await asyncio.sleep(min(1.0, idle_s / 4))
        if not folder.is_dir():
            logger.warning("the folder %s was deleted: the server ends", folder)
            server.should_exit = True
            return
        if activity.idle_s < idle_s:
            continue
        # Nobody may be looking for the server at this moment, and no connected process may be alive.
        with file_lock(folder / "start.lock") as undisturbed, file_lock(folder / "clients.lock") as alone:
            if undisturbed and alone:
                logger.info("no request for %.0f s and no client alive: the server ends", idle_s)
                server.should_exit = True
                return


async def _serve(folder: Path, idle_s: float, port: int) -> None:
    activity = _Activity(_app(folder))
    listener = _listen(port)
    config = uvicorn.Config(activity, log_config=None, access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    watch = asyncio.create_task(_end_when_idle(server, activity, folder, idle_s))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    if server.started:
        state = {"pid": os.getpid(), "port": listener.getsockname()[1], "started": time.time()}
        fresh = folder / "server.json.tmp"
        fresh.write_text(json.dumps(state))
        fresh.replace(folder / "server.json")
    await serving
    watch.cancel()


def main(folder: Path, idle_s: float, port: int) -> int:
    """Serve until told to end; 3 where another server lives in the folder already."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with file_lock(folder / "server.lock") as only_one:  # held for life: the sign that a server is alive
        if not only_one:
            return 3
        (folder / "server.json").unlink(missing_ok=True)  # of the one before
        asyncio.run(_serve(folder, idle_s, port))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
