"""What tests of processes share: waiting for something to happen, and a port that nobody uses."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable


def until(condition: Callable[[], bool], timeout_s: float = 60.0, what: str = "it") -> None:
    """Wait until something has happened, or fail after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in time: {timeout_s:.0f} s"
        time.sleep(0.05)


def free_port() -> int:
    """Return a TCP port of the loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
