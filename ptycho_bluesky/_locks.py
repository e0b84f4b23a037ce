"""File locks that the operating system frees when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["acquire", "file_lock", "release"]

POLL_S = 0.02


def acquire(path: Path, *, timeout_s: float = 0.0, shared: bool = False) -> int | None:
    """Return a descriptor that holds the lock on `path` until it is released or this process dies.

    None where another process still holds it after `timeout_s` seconds. A child does not inherit it over ``exec``.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
        time.sleep(POLL_S)


def release(descriptor: int | None) -> None:
    """Free a lock that :func:`acquire` returned."""
    if descriptor is not None:
        os.close(descriptor)


@contextmanager
def file_lock(path: Path, *, timeout_s: float = 0.0, shared: bool = False) -> Iterator[bool]:
    """Hold the lock on `path` for a block; yields False where it could not be had within `timeout_s` seconds."""
    descriptor = acquire(path, timeout_s=timeout_s, shared=shared)
    try:
        yield descriptor is not None
    finally:
        release(descriptor)
