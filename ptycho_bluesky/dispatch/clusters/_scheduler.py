"""What Slurm and PBS have in common: small commands that answer quickly or not at all."""

from __future__ import annotations

import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ptycho_bluesky._resources import Resource
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._launcher import Ending
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch.clusters._shape import Shape, cluster, write_script
from ptycho_bluesky.errors import FacilityError

__all__ = ["SchedulerLauncher", "Seen", "command"]

ASK_S = 3.0
"""Longest wait for a scheduler's answer, seconds; Slurm's own commands wait 9 s for a controller that is away."""

FRESH_S = 0.2
"""So long an answer holds: all jobs are asked for at once, whoever asks."""

AWAY_S = 10.0
"""So long a scheduler that did not answer is not asked again."""

YOUNG_S = 5.0
"""So long after its submission a job may be missing from answers."""

BEATS = 5
"""Signs of life that may be missing of a runner of which the scheduler has lost sight."""


@dataclass(frozen=True)
class Seen:
    """One job as its scheduler sees it."""

    state: str
    """The scheduler's word for it."""

    active: bool
    """Whether it waits or runs."""

    name: str = ""
    """What tells whose it is: our job's id."""

    reason: str = ""
    """The scheduler's own, of its state."""

    never: bool = False
    """Whether it waits for what will not come; it is not active then."""


def command(*words: str, place: str) -> str:
    """Run a scheduler's command and return what it says.

    Raises
    ------
    FacilityError
        When it is not installed or refuses (kind "user"), or does not answer (kind "machine").
    """
    # Where this process is itself a job of the scheduler, what it was given does not hold for its own jobs.
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "PBS_")) or k == "SLURM_CONF"}
    own["PTYCHO_BLUESKY_HOME"] = str(settings().home)
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=ASK_S, stdin=subprocess.DEVNULL, env=own, check=False
        )
    except FileNotFoundError:
        raise FacilityError(
            f"{words[0]} is not installed here; install the scheduler's commands, or correct kind of "
            f"[resources.{place}]",
            kind="user",
        ) from None
    except subprocess.TimeoutExpired:
        raise FacilityError(
            f"{place!r} does not answer: {words[0]} waited {ASK_S:.0f} s for its scheduler; the job waits for it"
        ) from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-500:] or f"status {done.returncode}"
        away = any(sign in said.lower() for sign in ("unable to contact", "connection refused", "cannot connect"))
        raise FacilityError(f"{place!r}: {words[0]} says: {said}", kind="machine" if away else "user")
    return done.stdout


class SchedulerLauncher(ABC):
    """Runners as jobs of a cluster's scheduler.

    Parameters
    ----------
    place, resource:
        Of the settings.
    """

    kind: ClassVar[str]
    scheduler: ClassVar[str]
    """Its name, for people."""

    node_failures: ClassVar[tuple[str, ...]] = ()
    """States in which the scheduler has lost sight of a job, which may go on all the same."""

    _answers: ClassVar[dict[tuple[str, str], tuple[float, dict[str, Seen] | None]]] = {}

    def __init__(self, place: str, resource: Resource | None) -> None:
        self.place, self.resource = place, cluster(place, resource)

    @abstractmethod
    def submit(self, job: JobFolder, shape: Shape, script: Path, after: str | None) -> str:
        """Submit the script of a job of `shape`; it begins when the job `after` has ended. Return its number there."""

    @abstractmethod
    def ask(self) -> dict[str, Seen]:
        """Return this user's jobs by the scheduler's number, of those that ended at least the last ones."""

    @abstractmethod
    def end(self, number: str) -> None:
        """Cancel one of the scheduler's jobs."""

    @abstractmethod
    def told(self, seen: Seen, job: JobFolder) -> Ending | None:
        """Return how a job ended by what the scheduler says (`seen`); None where it knows nothing more than that."""

    def look(self) -> dict[str, Seen] | None:
        """Return :meth:`ask`'s answer, or one of just now; None where the scheduler does not answer."""
        key = (self.kind, os.environ.get("SLURM_CONF", ""))
        when, known = self._answers.get(key, (float("-inf"), None))
        if time.monotonic() - when > (FRESH_S if known is not None else AWAY_S):
            try:
                known = self.ask()
            except FacilityError:
                known = None
            self._answers[key] = (time.monotonic(), known)
        return known

    def launch(self, job: JobFolder) -> dict[str, Any]:
        """Submit the runner; where that was done by a process that died before it could note it, find it again.

        Raises
        ------
        FacilityError
            When the scheduler does not answer or refuses it, or the resource has no room for it.
        """
        shape = Shape.of(job, self.place, self.resource)
        known = self.look()
        if known is None:
            raise FacilityError(f"the scheduler of {self.place!r} does not answer; the job waits for it")
        found = [number for number, seen in known.items() if seen.active and self._is(seen, job)]
        script = write_script(job, shape, self.resource)
        number = found[0] if found else self.submit(job, shape, script, self._after(job))
        self._answers.clear()
        return {"kind": self.kind, "place": self.place, "id": number}

    def _is(self, seen: Seen, job: JobFolder) -> bool:
        return seen.name == job.job_id

    def _after(self, job: JobFolder) -> str | None:
        """Return the job that must end first, so that no more than ``max_jobs`` run at once."""
        if self.resource.max_jobs is None:
            return None
        ahead = [other.runner() for other in Ledger(job.path.parent).active(self.place) if other.path != job.path]
        numbers = [str(runner["id"]) for runner in ahead if runner is not None and "id" in runner]
        return numbers[-self.resource.max_jobs] if len(numbers) >= self.resource.max_jobs else None

    def alive(self, job: JobFolder, runner: Mapping[str, Any]) -> bool | None:
        """Whether the scheduler has the job of this runner, waiting or at work; None where it does not answer.

        A job that never began waits as far as one knows.
        """
        known = self.look()
        if known is None:
            return None if job.heartbeat_file.exists() else True
        seen = known.get(str(runner.get("id")))
        if seen is not None and seen.active:
            return True
        if seen is None and time.time() - float(runner.get("t", 0.0)) < YOUNG_S:
            return True
        if seen is None or seen.state in self.node_failures:
            return job.heartbeat_file.exists() and job.heartbeat_age_s() < BEATS * settings().heartbeat_s
        return False

    def kill(self, job: JobFolder, runner: Mapping[str, Any]) -> None:
        """Cancel a job's runner at the scheduler, which ends all its processes on all nodes."""
        self.end(str(runner["id"]))
        self._answers.clear()

    def ending(self, job: JobFolder, runner: Mapping[str, Any]) -> Ending | None:
        """Return what the scheduler says of a job whose runner left no last word."""
        number = str(runner.get("id"))
        seen = (self.look() or {}).get(number)
        if seen is None:
            return None
        if seen.never:
            self.end(number)
            reason = f"{self.scheduler} would never start it ({seen.reason}); correct [resources.{self.place}]"
            return Ending("failed", reason, "user")
        return self.told(seen, job)

    def could_not_start(self, job: JobFolder, seen: Seen) -> Ending | None:
        """Return the ending of a job, `seen` by the scheduler, whose runner gave no sign of life; None where it did."""
        if job.heartbeat_file.exists():
            return None
        words = job.log_tail(1) or "nothing in its log"
        reason = (
            f"the runner did not start at {self.place!r} ({self.scheduler}: {seen.state} {seen.reason}; {words}); "
            f"`ptycho-bluesky doctor --resource {self.place}` looks for the cause"
        )
        return Ending("failed", reason, "machine")
