"""Keeps an edge process running: starts it, starts it again when it dies, and gives up when that does not help."""

from __future__ import annotations

import collections
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["EdgeSupervisor"]

logger = logging.getLogger(__name__)

WATCH_S = 0.1
BACK_OFF_S = (0.0, 0.5, 2.0, 5.0)
WITHIN_S = 60.0
WILL_NOT_HELP = 3


class EdgeSupervisor:
    """Runs ``python -m ptycho_bluesky.inference`` in a session of its own and watches it from a thread.

    The first restart is immediate (frames wait in the ring meanwhile), later ones wait longer; after as many deaths
    within a minute as there are waits, or when the process says that a restart will not help, no more is tried.

    Parameters
    ----------
    arguments:
        Of the edge process; ``--parent`` and ``--restarts`` are added.
    log:
        File that takes what it says.
    threads:
        CPU threads that it may use.
    on_death:
        Called from the watching thread with a text, and whether no restart follows.
    tick:
        Called from the watching thread ten times a second.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        threads: int,
        on_death: Callable[[str, bool], None],
        tick: Callable[[], None],
    ) -> None:
        self._arguments, self._log, self._on_death, self._tick = list(arguments), log, on_death, tick
        count = str(threads)
        self._environment = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        self.restarts = 0
        self.gave_up = False
        self._deaths: collections.deque[float] = collections.deque()
        self._closing = threading.Event()
        self._process = self._launch()
        self._thread = threading.Thread(target=self._watch, name="ptycho-edge-supervisor", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the current edge process."""
        return self._process.pid

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ptycho_bluesky.inference", *self._arguments]
        command += ["--parent", str(os.getpid()), "--restarts", str(self.restarts)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
                start_new_session=True,  # Ctrl-C in the console is for the scan
            )  # fmt: skip

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_S):
            try:
                self._tick()
                if self._process.poll() is not None and not self.gave_up:
                    self._bury(self._process.returncode)
            except Exception:
                logger.exception("the supervisor of the edge process stumbled; it goes on")

    def _bury(self, status: int) -> None:
        now = time.monotonic()
        self._deaths.append(now)
        while now - self._deaths[0] > WITHIN_S:
            self._deaths.popleft()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        self.gave_up = status == WILL_NOT_HELP or len(self._deaths) > len(BACK_OFF_S)
        if self.gave_up:
            text = f"the edge process {how} and is not started again; its log is {self._log}"
            logger.error(text)
            self._on_death(text, True)
            return
        wait = BACK_OFF_S[len(self._deaths) - 1]
        text = f"the edge process {how}; it is started again in {wait:g} s, frames wait in the ring"
        logger.warning(text)
        self._on_death(text, False)
        if not self._closing.wait(wait):
            self.restarts += 1
            self._process = self._launch()

    def close(self, timeout_s: float) -> None:
        """Stop watching, wait for the process to end, then end it."""
        self._closing.set()
        self._thread.join()
        for end, wait in ((None, timeout_s), (self._process.terminate, 2.0), (self._process.kill, 10.0)):
            if end is not None:
                end()
            try:
                self._process.wait(wait)
                return
            except subprocess.TimeoutExpired:
                logger.warning("the edge process %d has not ended within %g s", self._process.pid, wait)
