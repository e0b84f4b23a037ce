"""A client of the catalogue: the configured Tiled server, or the embedded one."""

from __future__ import annotations

import time
from typing import Any

import httpx
from tiled.client.constructors import from_context
from tiled.client.context import Context
from tiled.client.utils import ClientError
from tiled.structures.core import Spec

from ptycho_bluesky.catalog._embedded import START_S, ensure_server
from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import CatalogError

__all__ = ["DERIVED", "RAW", "connect", "find_run"]

RAW = "raw"
"""Key of the container that holds the raw runs."""

DERIVED = ("processed", "ptychography")
"""Keys of the container that holds the reconstructions."""

RAW_SPEC = Spec("CatalogOfBlueskyRuns", version="3.0")

CONFLICT = 409


def child(parent: Any, key: str, specs: list[Spec] | None = None) -> Any:
    """Return the container `key` of `parent`, made where it is missing, also when another process is just as quick."""
    if key in parent:
        return parent[key]
    try:
        return parent.create_container(key, specs=specs)
    except ClientError as error:
        if error.response.status_code != CONFLICT:
            raise
        return parent[key]


def find_run(client: Any, uid: str) -> Any | None:
    """Return the run of exactly this uid, or None where the catalogue does not have it.

    ``client["raw"][uid]`` itself takes the beginning of a uid as well, and could find another run.
    """
    try:
        run = client[RAW][uid]
    except (KeyError, ValueError):  # ValueError: too short, or the beginning of several
        return None
    return run if run.metadata["start"]["uid"] == uid else None


def _answers(uri: str, deadline: float) -> None:
    """Wait until a server answers at `uri`. Tiled's own client would try for 45 s whatever the caller's patience."""
    problem = "no answer"
    with httpx.Client(trust_env=True, timeout=2.0, follow_redirects=True) as client:
        while True:
            try:
                status = client.get(uri).status_code
                if status < httpx.codes.INTERNAL_SERVER_ERROR:
                    return
                problem = f"HTTP {status}"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = f"{type(error).__name__}: {error}"
            if time.monotonic() >= deadline:
                raise CatalogError(
                    f"no Tiled server answers at {uri} ({problem}); allowed is the address of one that runs, e.g. "
                    "http://host:8000. Start it, correct PTYCHO_BLUESKY_TILED_URI, or unset it for the embedded server"
                )
            time.sleep(0.2)


def connect(timeout: float = START_S, *, idle_s: float | None = None) -> Any:
    """Return a Tiled client with the containers ``raw`` and ``processed/ptychography``.

    Of the server at ``settings().tiled_uri``; where that is not set, of the embedded server, which is started when
    none is alive. It goes on when this process ends, and ends by itself when nobody has used it for
    ``settings().tiled_idle_s``.

    Parameters
    ----------
    timeout:
        Longest time to wait for the server, seconds.
    idle_s:
        Instead of ``settings().tiled_idle_s`` for an embedded server that is started by this call.

    Returns
    -------
    tiled.client.container.Container
        ``client["raw"]`` finds runs by uid, beginning of a uid or scan id; ``client["processed/ptychography"]``
        holds one container a job.

    Raises
    ------
    CatalogError
        When the server cannot be reached in time, or refuses the key.
    """
    configured = settings().tiled_uri
    if configured is None:
        server = ensure_server(timeout_s=timeout, idle_s=idle_s)
        uri, key = server.uri, server.api_key
    else:
        secret = settings().tiled_api_key
        uri, key = configured, secret.get_secret_value() if secret else ""
        _answers(uri, time.monotonic() + timeout)
    context: Context | None = None
    try:
        context, path = Context.from_any_uri(uri, api_key=key or None, trust_env=configured is not None)
        client = from_context(context, node_path_parts=path)
        child(client, RAW, [RAW_SPEC])
        parent = client
        for name in DERIVED:
            parent = child(parent, name)
    except (httpx.HTTPError, ValueError, RuntimeError, KeyError) as error:
        if context is not None:
            context.close()
        raise CatalogError(
            f"the Tiled server at {uri} answers, but refused: {error}. It must allow reading and writing of "
            f"{RAW!r} and {'/'.join(DERIVED)!r}; give a key that may by PTYCHO_BLUESKY_TILED_API_KEY"
        ) from error
    return client
