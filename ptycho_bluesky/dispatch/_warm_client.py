"""The warm process seen from outside: started, asked for a runner, told to end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptycho_bluesky import __version__
from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.config import settings

__all__ = ["LARGEST", "LOCK", "SOCKET", "end_warm", "ensure_warm", "hand_over", "is_warm", "is_warming", "listening"]

LOCK = "warm.lock"
SOCKET = "warm.sock"

LARGEST = 256 * 1024
"""Longest request, bytes."""

ASK_S = 2.0
"""Longest time that the warm process may take to answer; it takes 20 ms. Then a runner starts cold."""

IDLE_S = 900.0
"""Time without a job after which the warm process ends, seconds."""

PASSED_ON = "CUDA_VISIBLE_DEVICES"


@contextlib.contextmanager
def _address(folder: Path) -> Iterator[str]:
    """Yield the address of the socket in `folder`, however long its path is: addresses end at 107 bytes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """Listen for this user's processes alone, in a folder of jobs whose ``warm.lock`` is held."""
    (folder / SOCKET).unlink(missing_ok=True)  # of the one before
    with socket.socket(socket.AF_UNIX) as listener, _address(folder) as address:
        before = os.umask(0o177)
        try:
            listener.bind(address)
        finally:
            os.umask(before)
        listener.listen(64)
        try:
            yield listener
        finally:
            (folder / SOCKET).unlink(missing_ok=True)


def _ask(folder: Path, do: str, **more: Any) -> dict[str, Any] | None:
    """Return the answer of the warm process; None where there is none."""
    try:
        with socket.socket(socket.AF_UNIX) as connection, _address(folder) as address:
            connection.settimeout(ASK_S)
            connection.connect(address)
            connection.sendall(json.dumps({"do": do, "version": __version__, **more}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                said: dict[str, Any] = json.loads(stream.readline())
            return said
    except (OSError, ValueError):
        return None


def is_warm(folder: Path) -> bool:
    """Whether a warm process waits for jobs in `folder`."""
    return (folder / SOCKET).exists() and "pid" in (_ask(folder, "ping") or {})


def is_warming(folder: Path) -> bool:
    """Whether a warm process is loading the engines, and will take jobs in some seconds."""
    if not (folder / LOCK).exists() or (folder / SOCKET).exists():
        return False
    with file_lock(folder / LOCK, shared=True) as nobody:
        return not nobody


def hand_over(folder: Path, slots: int) -> int | None:
    """Have the runner of the job in `folder` forked by the warm process; return its process, None where there is none.

    The runner gets this process's settings, as a cold one would.
    """
    if not (folder.parent / SOCKET).exists():
        return None
    environment = {k: v for k, v in os.environ.items() if k.startswith("PTYCHO_BLUESKY_") or k == PASSED_ON}
    environment["PTYCHO_BLUESKY_HOME"] = str(settings().home)
    said = _ask(folder.parent, "run", job=str(folder), slots=slots, environment=environment)
    return None if said is None or "pid" not in said else int(said["pid"])


def ensure_warm(folder: Path, idle_s: float = IDLE_S) -> None:
    """Start the warm process of a folder of jobs where there is none; it is ready some seconds later."""
    with file_lock(folder / LOCK) as nobody:
        if not nobody:
            return
    descriptor = os.open(folder / "warm.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "ptycho_bluesky.dispatch._warm", str(folder), str(idle_s)],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=folder,
            env={**os.environ, "PTYCHO_BLUESKY_HOME": str(settings().home)},
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    threading.Thread(target=process.wait, name="warm-reaper", daemon=True).start()  # no zombie when it ends


def end_warm(folder: Path, timeout_s: float = 5.0) -> None:
    """End the warm process of a folder, if there is one, killed after `timeout_s`; runners that it made go on."""
    for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 1.0)):
        with file_lock(folder / LOCK) as nobody:
            if nobody:
                return
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int((folder / LOCK).read_text()), number)
        with file_lock(folder / LOCK, timeout_s=patience_s):
            pass
