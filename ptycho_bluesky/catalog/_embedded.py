"""The embedded Tiled server seen from outside: found or started, waited for, stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import httpx

from ptycho_bluesky._locks import acquire, file_lock, release
from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import CatalogError

__all__ = ["Server", "ensure_server", "stop_server"]

logger = logging.getLogger(__name__)

START_S = 40.0
"""Longest time that a server may take to start; 3 s warm, 8 s with cold caches and a new database were measured."""

_lease: dict[Path, int] = {}


class Server(NamedTuple):
    """Where an embedded server is reached."""

    uri: str
    """Root of its interface, without the key."""

    api_key: str
    pid: int


def _folder() -> Path:
    folder = settings().home / "tiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise CatalogError(
            f"the folder of the embedded Tiled server {folder} cannot be made: {error}; set PTYCHO_BLUESKY_HOME to a "
            "folder that this user can write"
        ) from None
    return folder


def _api_key(folder: Path) -> str:
    """Return the key, made at the first use; only this user can read it."""
    path = folder / "api_key"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text().strip()


def _healthy(port: int) -> bool:
    try:
        with httpx.Client(trust_env=False, timeout=2.0) as client:
            return client.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def _state(folder: Path) -> dict[str, float]:
    try:
        state: dict[str, float] = json.loads((folder / "server.json").read_text())
    except (OSError, ValueError):
        return {}
    return state


def _find(folder: Path) -> Server | None:
    """Return the server that lives in `folder` and answers, if any."""
    with file_lock(folder / "server.lock") as nobody:
        if nobody:
            return None
    state = _state(folder)
    if not state or not _healthy(int(state["port"])):
        return None
    return Server(f"http://127.0.0.1:{int(state['port'])}/api/v1", _api_key(folder), int(state["pid"]))


def _log_tail(folder: Path) -> str:
    path = folder / "server.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    errors = [line for line in lines if "Error" in line]  # the last lines of a traceback of uvicorn say nothing
    return " | ".join((errors or lines)[-2:])


def _start(folder: Path, idle_s: float) -> subprocess.Popen[bytes]:
    port = int(_state(folder).get("port", 0))
    environment = {k: v for k, v in os.environ.items() if "TILED" not in k or k.startswith("PTYCHO_BLUESKY")}
    command = [sys.executable, "-m", "ptycho_bluesky.catalog._server", str(folder), str(idle_s), str(port)]
    log = folder / "server.log"
    if log.exists() and log.stat().st_size > 1_000_000:
        log.replace(folder / "server.log.1")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=folder,
            env=environment,
            start_new_session=True,  # it survives the console, and a Ctrl-C there
        )
    finally:
        os.close(descriptor)
    threading.Thread(target=process.wait, name="tiled-server-reaper", daemon=True).start()  # no zombie when it ends
    return process


def ensure_server(*, timeout_s: float = START_S, idle_s: float | None = None) -> Server:
    """Return the embedded server of this user's ``home``, started where none is alive.

    Two consoles that start at once get one server. It is a session of its own: it survives the console.

    Parameters
    ----------
    timeout_s:
        Longest time to wait for it, seconds.
    idle_s:
        Seconds without a request and without a connected process after which a newly started server ends;
        None for ``settings().tiled_idle_s``.

    Raises
    ------
    CatalogError
        When it does not answer in time; the text has the end of its log.
    """
    folder, deadline = _folder(), time.monotonic() + timeout_s
    process: subprocess.Popen[bytes] | None = None
    with file_lock(folder / "start.lock", timeout_s=timeout_s) as mine:
        if not mine:
            raise CatalogError(
                f"another process has been starting the embedded Tiled server for {timeout_s:.0f} s; "
                f"look into {folder / 'server.log'}, end that process, and try again"
            )
        if folder not in _lease and (lease := acquire(folder / "clients.lock", shared=True, timeout_s=1)) is not None:
            _lease[folder] = lease  # as long as this process lives, the server does not end for idleness
        _api_key(folder)
        while True:
            if (server := _find(folder)) is not None:
                return server
            if process is None:
                with file_lock(folder / "server.lock") as nobody:
                    alive = not nobody
                if not alive:
                    process = _start(folder, settings().tiled_idle_s if idle_s is None else idle_s)
            ended = process is not None and process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = (
                    f"ended with status {process.poll()}" if ended and process else f"did not answer in {timeout_s} s"
                )
                raise CatalogError(
                    f"the embedded Tiled server in {folder} {what}; its log {folder / 'server.log'} ends with: "
                    f"{_log_tail(folder) or '(nothing)'}. Mend that, or set tiled_uri to another server"
                )
            time.sleep(0.05)


def stop_server(timeout_s: float = 10.0) -> bool:
    """Stop the embedded server of this user's ``home``; its data stay.

    Returns
    -------
    bool
        False where none was alive.

    Raises
    ------
    CatalogError
        When it does not end in time.
    """
    folder = _folder()
    release(_lease.pop(folder, None))
    with file_lock(folder / "server.lock") as nobody:
        if nobody:
            return False
    if not (pid := int(_state(folder).get("pid", 0))):
        raise CatalogError(f"a Tiled server holds {folder / 'server.lock'} but left no server.json; end it by hand")
    for stop_signal, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pid, stop_signal)
        with file_lock(folder / "server.lock", timeout_s=patience_s) as gone:
            if gone:
                logger.info("the embedded Tiled server %d has ended", pid)
                return True
    raise CatalogError(f"the embedded Tiled server (process {pid}) did not end within {timeout_s + 5:.0f} s")
