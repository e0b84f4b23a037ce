"""Keeps an edge process running: starts it, starts it again when it dies, and gives up when that does not help."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import signal
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

    That is a nursery, which forks the edge process and, when it dies, the next one without importing anything anew.
    The first restart is immediate (frames wait in the ring meanwhile), later ones wait longer; after as many deaths
    within a minute as there are waits, or when the process says that a restart will not help, no more is tried.

    Parameters
    ----------
    arguments:
        Of the edge process; ``--parent`` is added.
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
        self.pid = 0
        """Of the edge process; 0 while there is none."""
        self._deaths: collections.deque[float] = collections.deque()
        self._closing = threading.Event()
        self._said = b""
        self._nursery = self._open_nursery()
        self._thread = threading.Thread(target=self._watch, name="ptycho-edge-supervisor", daemon=True)
        self._thread.start()

    def _open_nursery(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ptycho_bluesky.inference", *self._arguments, "--parent", str(os.getpid())]
        with self._log.open("ab") as log:
            nursery = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._environment,
                start_new_session=True,  # Ctrl-C in the console is for the scan
                bufsize=0,
            )  # fmt: skip
        if nursery.stdout is not None:
            os.set_blocking(nursery.stdout.fileno(), False)
        self._nursery, self._said = nursery, b""
        self._go()
        return nursery

    def _go(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died: that is seen at the next look
            if self._nursery.stdin is not None:
                self._nursery.stdin.write(f"go {self.restarts}\n".encode())

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_S):
            try:
                self._tick()
                if self.gave_up:
                    continue
                status = self._listen()
                if status is None and self._nursery.poll() is not None:
                    status = self._nursery.returncode
                if status is not None:
                    self._bury(status)
            except Exception:
                logger.exception("the supervisor of the edge process stumbled; it goes on")

    def _listen(self) -> int | None:
        """Take what the nursery said; return the exit status of an edge process that has ended, if one has."""
        stdout = self._nursery.stdout
        self._said += (None if stdout is None else stdout.read()) or b""
        *lines, self._said = self._said.split(b"\n")
        status = None
        for line in lines:
            word, number = line.split()
            if word == b"pid":
                self.pid = int(number)
            else:
                self.pid, status = 0, int(number)
        return status

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
            if self._nursery.poll() is None:
                self._go()
            else:
                self._close_pipes()
                self._open_nursery()

    def _close_pipes(self) -> None:
        for pipe in (self._nursery.stdin, self._nursery.stdout):
            if pipe is not None:
                pipe.close()

    def close(self, timeout_s: float) -> None:
        """Stop watching, wait for the edge process to end, then end it."""
        self._closing.set()
        self._thread.join()
        if not self._ends_within(timeout_s):
            for way, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
                logger.warning("the edge process %d has not ended; it is sent %s", self.pid, way.name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid or self._nursery.pid, way)
                if self._ends_within(patience):
                    break
        if self._nursery.stdin is not None:
            self._nursery.stdin.close()
        try:
            self._nursery.wait(5.0)
        except subprocess.TimeoutExpired:  # it is still importing
            self._nursery.kill()
            self._nursery.wait()
        self._close_pipes()

    def _ends_within(self, timeout_s: float) -> bool:
        """Tell whether the edge process has ended, or does within a time."""
        end = time.monotonic() + timeout_s
        while not self.gave_up and self._nursery.poll() is None:
            if self._listen() is not None:
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True
