"""One thread that calls functions at their time and sleeps in between: no polling, no thread a move."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["ALARM", "Alarm"]

logger = logging.getLogger(__name__)


class Alarm:
    """Calls functions at given times of :func:`time.monotonic`, in a daemon thread that starts with the first call."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def at(self, when: float, function: Callable[[], None]) -> None:
        """Call `function` at the monotonic time `when` (seconds), soon where that has passed."""
        with self._changed:
            heapq.heappush(self._due, (when, next(self._order), function))
            if self._thread is None or not self._thread.is_alive():  # not alive: this process is a fork
                self._thread = threading.Thread(target=self._run, name="ptycho-bluesky-alarm", daemon=True)
                self._thread.start()
            self._changed.notify()

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Call `function` `seconds` from now."""
        self.at(time.monotonic() + seconds, function)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                function = heapq.heappop(self._due)[2]
            try:
                function()
            except Exception:  # one device's fault must not leave all others waiting
                logger.exception("an alarm's function %r failed", function)


ALARM = Alarm()
"""The alarm that all devices of this process share."""
