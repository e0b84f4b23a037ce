"""What differs from place to place: how a runner is started, looked for and ended. All else is the job's folder."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._warm_client import hand_over
from ptycho_bluesky.errors import DispatchError

if TYPE_CHECKING:
    from ptycho_bluesky._resources import Resource
    from ptycho_bluesky.dispatch._folder import JobFolder
    from ptycho_bluesky.dispatch._status import JobState

__all__ = ["Ending", "Launcher", "LocalLauncher", "detached", "launcher_at", "launcher_of"]

LAUNCHERS = {
    "local": "ptycho_bluesky.dispatch._launcher:LocalLauncher",
    "slurm": "ptycho_bluesky.dispatch.clusters:SlurmLauncher",
    "pbs": "ptycho_bluesky.dispatch.clusters:PbsLauncher",
    "parsl": "ptycho_bluesky.dispatch.clusters:ParslPilots",
    "globus": "ptycho_bluesky.dispatch.globus:GlobusLauncher",
}
"""Launchers by the ``kind`` in ``runner.json``, imported when they are needed. Each is made of a place's name and its
resource."""

OWNED: dict[str, Launcher] = {}
"""Launchers that this process owns, by place, such as pilots: only they know what they have."""

TREE_S = 2.0
"""Longest time that killed processes may take to be gone."""


@dataclass(frozen=True)
class Ending:
    """How the place says that a runner ended which had no time to say so itself."""

    state: JobState
    reason: str
    """In plain words, with what to do."""

    kind: str = ""
    """Of a failure, as in :class:`JobStatus`."""


class Launcher(Protocol):
    """Starts runners at one place. The runner is the same everywhere: ``python -m ptycho_bluesky.dispatch.runner``."""

    def launch(self, job: JobFolder) -> dict[str, Any]:
        """Start the runner of a job.

        Returns
        -------
        dict
            What finds it again, for ``runner.json``: at least ``kind`` and ``place``.

        Raises
        ------
        DispatchError
            When the place refuses it or does not answer; the text has the place's own words.
        """
        ...

    def alive(self, job: JobFolder, runner: Mapping[str, Any]) -> bool | None:
        """Whether the runner lives or waits for its start; None where that cannot be told now: the heartbeat decides.

        Called often: it answers within some seconds in any case.
        """
        ...

    def kill(self, job: JobFolder, runner: Mapping[str, Any]) -> None:
        """End the runner and all its processes, without asking it."""
        ...

    def ending(self, job: JobFolder, runner: Mapping[str, Any]) -> Ending | None:
        """Return how a runner ended that is not alive and left no final state; None where the place does not know."""
        ...


def detached(module: str, job: JobFolder, slots: int) -> subprocess.Popen[bytes]:
    """Start ``python -m module FOLDER SLOTS`` for a job, in a process group of its own, its words in the job's log."""
    environment = {**os.environ, "PTYCHO_BLUESKY_HOME": str(settings().home)}
    with job.log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(job.path), str(slots)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=job.path,
            env=environment,
            start_new_session=True,
        )
    threading.Thread(target=process.wait, name="runner-reaper", daemon=True).start()  # no zombie when it ends
    return process


class LocalLauncher:
    """Runners on this machine, each a detached process that survives the console.

    Parameters
    ----------
    place, resource:
        Of the settings; the resource says how many jobs may run at once on a device.
    slots:
        The same number, where it is given by hand.
    """

    def __init__(self, place: str = "local", resource: Resource | None = None, *, slots: int | None = None) -> None:
        known = None if resource is None else resource.max_jobs
        self._place, self._slots = place, slots or known or 1

    def launch(self, job: JobFolder) -> dict[str, Any]:
        """Start the runner, a process group of its own: it survives the console, and can be ended as a whole.

        A warm process forks it, where there is one; else it starts cold.
        """
        if (warm := hand_over(job.path, self._slots)) is not None:
            return {"kind": "local", "place": self._place, "pid": warm}
        process = detached("ptycho_bluesky.dispatch.runner", job, self._slots)
        return {"kind": "local", "place": self._place, "pid": process.pid}

    def alive(self, job: JobFolder, runner: Mapping[str, Any]) -> bool | None:
        """Whether the process lives, seen from its own machine; None from another one."""
        return job.runner_pid() is not None if runner.get("host") == socket.gethostname() else None

    def kill(self, job: JobFolder, runner: Mapping[str, Any]) -> None:
        """Kill the runner's process group, and those of its children that have groups of their own."""
        pid = job.runner_pid()
        if pid is None or runner.get("host") != socket.gethostname():
            return
        family: list[Any] = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=TREE_S)

    def ending(self, job: JobFolder, runner: Mapping[str, Any]) -> Ending | None:
        """Return None: nobody watches processes here."""
        return None


def _made(kind: str, place: str) -> Launcher:
    if place in OWNED:
        return OWNED[place]
    module, name = LAUNCHERS[kind].split(":")
    resource = settings().resources.get(place)
    if resource is None and place != "local":
        known = ", ".join(["local", *(name for name in settings().resources if name != "local")])
        raise DispatchError(
            f"no resource is named {place!r}; known are {known}: correct the job's place, or add [resources.{place}] "
            "to settings.toml"
        )
    made: Launcher = getattr(importlib.import_module(module), name)(place, resource)
    return made


def launcher_at(place: str) -> Launcher:
    """Return what starts runners at a place of the settings.

    Raises
    ------
    DispatchError
        When the settings know no such place.
    """
    resource = settings().resources.get(place)
    return _made("local" if resource is None else resource.launcher, place)


def launcher_of(runner: Mapping[str, Any]) -> Launcher:
    """Return what started a runner, told by ``runner.json``.

    Raises
    ------
    DispatchError
        When its place has left the settings, or its kind is not known.
    """
    kind = str(runner.get("kind", "local"))
    if kind not in LAUNCHERS:
        raise DispatchError(f"a runner of kind {kind!r} is not known; allowed are {', '.join(LAUNCHERS)}")
    return _made(kind, str(runner.get("place", "local")))
