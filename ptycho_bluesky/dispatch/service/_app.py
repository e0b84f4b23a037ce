"""The dispatcher's interface over HTTP: JSON in and out, nothing without the key."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ptycho_bluesky import __version__
from ptycho_bluesky.dispatch._allowed import check_paths
from ptycho_bluesky.dispatch._executor import GRACE_S, Executor
from ptycho_bluesky.dispatch._spec import LIMIT, JobSpec
from ptycho_bluesky.dispatch.service._client import API
from ptycho_bluesky.errors import PtychoError

__all__ = ["app_of"]

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Any, Any], Awaitable[None]]


class _Guard:
    """ASGI layer before all routes: who has no key learns nothing, not even which routes there are."""

    def __init__(self, app: Asgi, key: str) -> None:
        self._app, self._key = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        answer = self._refusal(scope) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        given = dict(scope["headers"])
        if not secrets.compare_digest(given.get(b"authorization", b""), self._key):
            logger.warning("a request from %s without the key was refused", (scope.get("client") or ("?",))[0])
            return _error(401, "the key is missing or wrong; give PTYCHO_BLUESKY_DISPATCHER_KEY")
        spoken = given.get(b"ptycho-bluesky-api", b"").decode("latin-1")
        if spoken != API:
            return _error(
                400,
                f"version {spoken or 'none'} of the interface is not spoken here, but {API} (ptycho-bluesky "
                f"{__version__}); install the same version on both sides",
            )
        return None


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)


async def _body(request: Request) -> bytes:
    """Return a request's body, read no further than it may be long."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > LIMIT:
            raise HTTPException(413, f"the body has more than {LIMIT} bytes; name files, do not embed data")
    return data


class _Routes:
    """What can be asked of the service."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.ledger = executor, executor.ledger

    def routes(self) -> list[Route]:
        prefix, one = f"/v{API}", f"/v{API}/jobs/{{job_id}}"
        acts = {"cancel": self.cancel, "stop": self.stop, "retry": self.retry}
        told = {"": self.status, "/spec": self.spec, "/history": self.history, "/log": self.log}
        return [
            Route(f"{prefix}/about", self.about),
            Route(f"{prefix}/jobs", self.jobs, methods=["GET"]),
            Route(f"{prefix}/jobs", self.submit, methods=["POST"]),
            *(Route(f"{one}{name}", endpoint) for name, endpoint in told.items()),
            *(Route(f"{one}/{name}", endpoint, methods=["POST"]) for name, endpoint in acts.items()),
        ]

    async def submit(self, request: Request) -> JSONResponse:
        body = await _body(request)
        return await run_in_threadpool(self._submit, body)

    def _submit(self, body: bytes) -> JSONResponse:
        spec = JobSpec.parse(body)
        try:
            check_paths(spec)
        except PtychoError as error:
            raise HTTPException(403, str(error)) from None
        return JSONResponse({"job_id": self.executor.submit(spec)})

    def about(self, request: Request) -> JSONResponse:
        states = [status.state for status in self.ledger.unfinished()]
        told = {"version": __version__, "host": socket.gethostname(), "queued": states.count("queued")}
        return JSONResponse({**told, "running": len(states) - states.count("queued")})

    def jobs(self, request: Request) -> JSONResponse:
        state: Any = request.query_params.get("state")
        found = self.ledger.jobs(state, request.query_params.get("raw_uid"))
        return JSONResponse({"jobs": [asdict(status) for status in found]})

    def status(self, request: Request) -> JSONResponse:
        return JSONResponse(asdict(self.ledger.status(self._id(request))))

    def spec(self, request: Request) -> Response:
        spec = self.ledger.job(self._id(request)).spec()
        return Response(spec.model_dump_json(), media_type="application/json")

    def history(self, request: Request) -> JSONResponse:
        return JSONResponse({"history": self.ledger.job(self._id(request)).history()})

    def log(self, request: Request) -> JSONResponse:
        lines = int(_number(request, "lines", 50, 10_000))
        return JSONResponse({"log": self.ledger.job(self._id(request)).log_tail(lines)})

    def cancel(self, request: Request) -> JSONResponse:
        grace_s = _number(request, "grace_s", GRACE_S, 20.0)
        return JSONResponse(asdict(self.executor.cancel(self._id(request), grace_s)))

    def stop(self, request: Request) -> JSONResponse:
        return JSONResponse(asdict(self.executor.stop(self._id(request))))

    def retry(self, request: Request) -> JSONResponse:
        return JSONResponse(asdict(self.executor.retry(self._id(request))))

    def _id(self, request: Request) -> str:
        """Return the id of a job, which is the name of a folder: nothing else may be asked for by it."""
        given = request.path_params["job_id"]
        if not given.replace("-", "").isalnum():
            raise HTTPException(404, "no such job")
        return str(given)


def _number(request: Request, name: str, default: float, most: float) -> float:
    try:
        return min(max(float(request.query_params.get(name, default)), 0.0), most)
    except ValueError:
        raise HTTPException(400, f"{name} is no number") from None


def app_of(executor: Executor, key: str) -> Asgi:
    """Return the service's ASGI application.

    Parameters
    ----------
    executor:
        Does what is asked.
    key:
        To be given with each request, as ``Authorization: Bearer KEY``.
    """

    async def refused(request: Request, error: Exception) -> Response:
        return _error(400, str(error))

    async def wrong(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, error.detail)

    async def broken(request: Request, error: Exception) -> Response:
        return _error(500, f"{type(error).__name__}; the dispatcher's log tells more")

    handlers: Any = {PtychoError: refused, HTTPException: wrong, Exception: broken}
    return _Guard(Starlette(routes=_Routes(executor).routes(), exception_handlers=handlers), key)
