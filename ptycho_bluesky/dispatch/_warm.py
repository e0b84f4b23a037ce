"""The warm process: it has loaded the engines, and forks a runner for each job: ``python -m ..._warm FOLDER IDLE_S``.

A cold runner spends seconds of processor time on imports and compiled kernels before its first epoch; a fork has them
from the start. Each job still has a process, a process group and memory of its own. The parent never starts a thread
and never touches a GPU, since neither survives a fork.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptycho_bluesky import __version__
from ptycho_bluesky._locks import acquire, release
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._warm_client import LARGEST, LOCK, SOCKET, listening

__all__ = ["main", "preload"]

logger = logging.getLogger("ptycho_bluesky.warm")

LOOK_S = 1.0
"""Longest time that others look whether there is a warm process already."""

ANSWER_S = 2.0
"""Longest time that a client may take to say what it wants."""

REST_S = 1.0
"""Longest pause between two looks at the clock."""


def preload() -> None:
    """Import what recipes need, and reconstruct some noise, which loads the compiled kernels. One thread, no GPU."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # the other way of counting GPUs forbids them to forked processes
    import numpy as np

    from ptycho_bluesky.dispatch import _recipes, runner  # noqa: F401 - forks find them loaded
    from ptycho_bluesky.experiment import PtychoDataset
    from ptycho_bluesky.reconstruction import reconstruct

    rng = np.random.default_rng(0)
    positions = np.indices((8, 8)).reshape(2, -1).T.astype(np.float64) * 4
    light = 200 * np.exp(-np.hypot(*np.meshgrid(np.arange(-16, 16), np.arange(-16, 16))) / 4)
    for kind in (np.uint16, np.float32):
        frames = rng.poisson(light, (64, 32, 32)).astype(kind)
        reconstruct(PtychoDataset(frames, positions), "auto", {"epochs": 6, "threads": 1})


def _run_job(asked: dict[str, Any]) -> int:
    """Be the runner of a job, in a fork."""
    import numpy as np

    from ptycho_bluesky.dispatch import runner

    os.setsid()
    folder = Path(asked["job"])
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with Path(os.devnull).open("rb") as nothing, (folder / "log.txt").open("ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PTYCHO_BLUESKY_")]:
        del os.environ[name]
    os.environ.update(asked["environment"])
    settings.cache_clear()
    np.random.seed()  # noqa: NPY002 - forks shall not share the state of a library that draws from it
    return runner.main(folder, int(asked["slots"]))


def _tend(folder: Path) -> int:
    from ptycho_bluesky.dispatch import Executor, Ledger

    Executor(Ledger(folder)).tend()
    return 0


class _Warm:
    """The loop: who asks is answered with the process of a new runner."""

    def __init__(self, folder: Path, listener: socket.socket, lock: int, idle_s: float) -> None:
        self.folder, self.listener, self.lock, self.idle_s = folder, listener, lock, idle_s
        self.used = time.monotonic()
        self.ended = False

    def answer(self, connection: socket.socket) -> None:
        """Do what a client asks: ``{"do": "run", ...}`` forks a runner, ``{"do": "ping"}`` tells of this process."""
        connection.settimeout(ANSWER_S)
        asked = json.loads(_line(connection))
        self.used = time.monotonic()
        if asked["version"] != __version__:  # the package was updated meanwhile
            self.ended = True
            said: dict[str, Any] = {"version": __version__}
        elif asked["do"] == "run":
            said = {"pid": self._fork(lambda: _run_job(asked), connection)}
        else:
            said = {"pid": os.getpid(), "version": __version__}
        connection.sendall(json.dumps(said).encode() + b"\n")

    def _fork(self, work: Callable[[], int], connection: socket.socket | None = None) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            if connection is not None:
                connection.close()
            self.listener.close()
            release(self.lock)  # the parent's copy holds it
            status = work()
        except BaseException:  # whatever it is, this process must not go on as its parent
            logger.exception("the fork could not do its work")
        finally:
            logging.shutdown()
            os._exit(status)

    def serve(self, parent_ended: Callable[[], bool]) -> None:
        """Answer until nobody has asked for `idle_s` seconds, or `parent_ended`."""
        self.listener.settimeout(REST_S)
        self._fork(lambda: _tend(self.folder))  # what waited for this process, which it will be asked for
        while not self.ended and not parent_ended() and time.monotonic() - self.used < self.idle_s:
            with contextlib.suppress(TimeoutError):
                connection, _ = self.listener.accept()
                with connection:
                    try:
                        self.answer(connection)
                    except (OSError, ValueError, KeyError, TypeError) as error:
                        logger.warning("a request could not be answered: %s", error)


def _line(connection: socket.socket) -> bytes:
    """Return what a client sends, up to the end of the line."""
    data = b""
    while not data.endswith(b"\n"):
        part = connection.recv(65536)
        if not part or len(data) > LARGEST:
            raise ValueError("no whole line came")
        data += part
    return data


def main(folder: Path, idle_s: float) -> int:
    """Serve the jobs in `folder`; 3 where another process does so already."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    lock = acquire(folder / LOCK, timeout_s=LOOK_S)
    if lock is None:
        return 3
    (folder / SOCKET).unlink(missing_ok=True)  # of the one before
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)  # for whoever wants to end it
    begin = time.monotonic()
    preload()
    logger.info("warm after %.1f s", time.monotonic() - begin)
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: terminated.set())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies of runners that ended
    with listening(folder) as listener:
        _Warm(folder, listener, lock, idle_s).serve(terminated.is_set)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
