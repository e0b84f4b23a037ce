"""The dispatcher service's process: one for each ``home``."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import secrets
import signal
import socket
from pathlib import Path

import uvicorn

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._executor import Executor
from ptycho_bluesky.dispatch._folder import atomic_write
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._warm_client import end_warm
from ptycho_bluesky.dispatch.clusters import ParslPilots
from ptycho_bluesky.dispatch.service._app import app_of
from ptycho_bluesky.dispatch.service._client import LOCK, NOTE
from ptycho_bluesky.dispatch.service._keeper import Keeper
from ptycho_bluesky.errors import DispatchError

__all__ = ["serve"]

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""Longest time that consoles look whether a service lives."""

AT_ONCE = 64
"""Requests at once; more are refused."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(host: str) -> str:
    """Return the key: that of the settings, or on loopback one that only this user's processes can read."""
    given = settings().dispatcher_key
    if given is not None:
        return given.get_secret_value()
    if not _is_loopback(host):
        raise DispatchError(
            f"to listen on {host}, which other machines can reach, the dispatcher needs a key: set "
            "PTYCHO_BLUESKY_DISPATCHER_KEY to 32 characters or more (`openssl rand -hex 32` makes one), here and on "
            "the consoles"
        )
    return secrets.token_hex(32)


def _check(host: str, certificate: Path | None) -> None:
    """Refuse to take jobs from other machines without saying which files they may read."""
    if _is_loopback(host):
        return
    local = settings().resources.get("local")
    if local is None or not local.paths:
        raise DispatchError(
            f"to listen on {host}, which other machines can reach, the dispatcher needs a list of the folders that "
            'jobs may read: write [resources.local] with kind = "local" and paths = ["/data"] into settings.toml'
        )
    if certificate is None:
        logger.warning("without a certificate the key travels in clear; give one, or use an SSH tunnel or a proxy")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise DispatchError(f"the dispatcher cannot listen on {host}, port {port}: {error}; give another") from None


def _own_pilots() -> list[ParslPilots]:
    """Start the pilots of all places that have some: they live as long as the service."""
    places = [name for name, resource in settings().resources.items() if resource.launcher == "parsl"]
    owned = [ParslPilots(place, settings().resources[place]) for place in places]
    for pilots in owned:
        pilots.start()
    return owned


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    certificate: Path | None = None,
    certificate_key: Path | None = None,
    warm: bool = True,
) -> None:
    """Serve until told to end (SIGTERM, SIGINT); jobs go on without it.

    Parameters
    ----------
    host, port:
        Where to listen; port 0 takes a free one. ``<home>/dispatcher.json`` tells this user's consoles.
    certificate, certificate_key:
        PEM files, for HTTPS.
    warm:
        Whether to keep a warm process, which holds some hundred MB.

    Raises
    ------
    DispatchError
        When another one serves this ``home``, the address cannot be had, or what other machines need is not set.
    """
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    _check(host, certificate)
    key = _key(host)
    with file_lock(home / LOCK, timeout_s=LOOK_S) as only_one:
        if not only_one:
            raise DispatchError(f"a dispatcher serves {home} already; `ptycho-bluesky dispatcher --status` shows it")
        with _listen(host, port) as listener:
            pilots, executor = _own_pilots(), Executor(Ledger())
            config = uvicorn.Config(
                app_of(executor, key),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                limit_concurrency=AT_ONCE,
                timeout_graceful_shutdown=2,
                ssl_certfile=certificate,
                ssl_keyfile=certificate_key,
            )
            keeper = Keeper(executor, retries=settings().retries, warm=warm)
            uri = f"{'http' if certificate is None else 'https'}://{_name(host)}:{listener.getsockname()[1]}"
            note = {"uri": uri, "key": key, "pid": os.getpid(), "host": socket.gethostname()}
            _write_private(home / NOTE, json.dumps(note))
            logger.info("the dispatcher of %s listens at %s", home, uri)
            for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has ended
                signal.signal(number, lambda number, frame: None)
            keeper.start()
            try:
                uvicorn.Server(config).run(sockets=[listener])
            finally:
                (home / NOTE).unlink(missing_ok=True)
                keeper.stop()
                end_warm(executor.ledger.folder)
                for owned in pilots:
                    owned.close()


def _name(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _write_private(path: Path, text: str) -> None:
    """Write a file that this user alone can read, at no moment anybody else."""
    before = os.umask(0o077)
    try:
        atomic_write(path, text)
    finally:
        os.umask(before)
