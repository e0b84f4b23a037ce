"""The dashboard as a web page without Jupyter: the same messages over a WebSocket, and no way to act."""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlparse

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ptycho_bluesky._session._source import ViewSource
from ptycho_bluesky.jupyter import Feed, pack, page

__all__ = ["LOOPBACK", "watch_app"]

logger = logging.getLogger(__name__)

TICK_S = 1 / 30
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_VIEWERS = 64
POLICY_VIOLATION, TRY_LATER = 1008, 1013

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the key stands in the address
    "Cache-Control": "no-store",
}


def watch_app(make_source: Callable[[], ViewSource] = ViewSource, key: str | None = None) -> Starlette:
    """Return the web application.

    Each viewer has a stream of his own, so that a slow line gets fewer images and holds nobody up.

    Parameters
    ----------
    make_source:
        Returns what is shown, for one viewer.
    key:
        Which every request must bring along as ``?key=...``; None for none, which is for this machine alone: then only
        pages that were asked for by a name of this machine are answered.
    """
    viewers: set[WebSocket] = set()

    def refused(connection: Request | WebSocket) -> str:
        if key is not None:
            given = QueryParams(connection.url.query).get("key", "")
            return "" if hmac.compare_digest(given.encode(), key.encode()) else "the key is missing or wrong: /?key=..."
        host = connection.url.hostname or ""
        return "" if host in LOOPBACK else f"{host!r} is not this machine; start it with a key"

    async def index(request: Request) -> Response:
        if why := refused(request):
            return PlainTextResponse(f"{why}\n", 401, HEADERS)
        return HTMLResponse(page("/feed"), headers=HEADERS)

    async def health(_: Request) -> Response:
        return JSONResponse({"viewers": len(viewers)}, headers=HEADERS)

    async def feed(socket: WebSocket) -> None:
        origin = urlparse(socket.headers.get("origin", "")).netloc
        if refused(socket) or (origin and origin != socket.headers.get("host")):
            await socket.close(POLICY_VIOLATION)  # another site's page looks in
            return
        if len(viewers) >= MOST_VIEWERS:
            await socket.close(TRY_LATER)
            return
        await socket.accept()
        viewers.add(socket)
        source = make_source()
        try:
            await _serve(socket, source)
        finally:
            viewers.discard(socket)
            source.close()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        for socket in list(viewers):
            with contextlib.suppress(RuntimeError):
                await socket.close()

    routes = [Route("/", index), Route("/health", health), WebSocketRoute("/feed", feed)]
    return Starlette(routes=routes, lifespan=lifespan)


async def _serve(socket: WebSocket, source: ViewSource) -> None:
    """Send what is new to one viewer until he leaves."""
    outgoing: list[bytes] = []

    def send(header: dict[str, Any], buffers: Any) -> None:
        outgoing.append(pack(header, [b if memoryview(b).nbytes else b"" for b in buffers]))

    feed = Feed(source, send)

    async def listen() -> None:
        while True:
            try:
                message = json.loads(await socket.receive_text())
            except (ValueError, KeyError):  # what makes no sense is passed over
                continue
            except WebSocketDisconnect:
                break
            if isinstance(message, dict):
                feed.hear(message)
        both.cancel_scope.cancel()

    async def talk() -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):  # he has left
            while True:
                await run_in_threadpool(feed.tick)
                ready, outgoing[:] = list(outgoing), []
                for message in ready:
                    await socket.send_bytes(message)
                await anyio.sleep(TICK_S)
        both.cancel_scope.cancel()

    async with anyio.create_task_group() as both:
        both.start_soon(listen)
        both.start_soon(talk)
