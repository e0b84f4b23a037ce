"""Not more requests than Globus Compute allows, counted over all processes of one home."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ptycho_bluesky._locks import file_lock

__all__ = ["Pace"]

REQUESTS, WINDOW_S = 18, 10.0
"""Globus Compute refuses the 21st request of a user within 10 s; two are left to others."""


class Pace:
    """Lets `requests` through within `window_s` seconds, for all processes that name the same file.

    Parameters
    ----------
    path:
        File of the moments of the last requests.
    requests, window_s:
        How many within which time.
    """

    def __init__(self, path: Path, requests: int = REQUESTS, window_s: float = WINDOW_S) -> None:
        self._path, self._requests, self._window_s = path, requests, window_s

    def _moments(self) -> list[float]:
        try:
            found = json.loads(self._path.read_text())
            return [float(t) for t in found][-self._requests :]
        except (OSError, ValueError, TypeError):
            return []

    def take(self) -> float:
        """Take the next free moment, wait for it, and return how long that was, seconds."""
        with file_lock(self._path.with_suffix(".lock"), timeout_s=5.0):
            now, moments = time.time(), self._moments()
            moment = now
            if len(moments) >= self._requests:
                # A clock that was put back must not stop everything.
                moment = max(now, min(moments[-self._requests] + self._window_s, now + 10 * self._window_s))
            self._path.write_text(json.dumps([*moments, moment][-self._requests :]))
        time.sleep(moment - now)
        return moment - now
