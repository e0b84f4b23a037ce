"""Jobs from submission to retry, the same at all places; what differs are the launchers."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._allowed import check_paths
from ptycho_bluesky.dispatch._choice import choose
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._launcher import Launcher, LocalLauncher, launcher_at, launcher_of
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._status import FINAL, JobStatus
from ptycho_bluesky.dispatch._turn import to_be_launched
from ptycho_bluesky.errors import DispatchError, FacilityError

__all__ = ["Executor", "LocalExecutor"]

KILL_S = 5.0
"""Longest time that the system may take to end a killed process."""

GRACE_S = 0.5
"""Time to end by itself that a cancelled job has: what it was working on is dropped in any case, seconds."""

REGISTER_S = 10.0
"""The same for one that has its result already and is putting it into Tiled."""

logger = logging.getLogger(__name__)


class Executor:
    """Jobs anywhere: each at the place that its specification names, in the same folder, under the same rules.

    Parameters
    ----------
    ledger:
        None for the ledger of ``settings().home``.
    launchers:
        By the names of places, where they are not to be made from the settings, e.g. pilots that this process owns.
    """

    def __init__(self, ledger: Ledger | None = None, launchers: Mapping[str, Launcher] | None = None) -> None:
        self.ledger = ledger or Ledger()
        self.launchers = dict(launchers or {})

    def submit(self, spec: JobSpec) -> str:
        """Enter a job; an equal spec of the same run is the same job and is not run again.

        Its runner is started where its turn is near; else :meth:`tend` does it later, which ending runners call. A job
        that ended as failed, lost or cancelled is not started again by this: see :meth:`retry`.

        Raises
        ------
        DispatchError
            When the folder cannot be written, its place does not allow the files that it names or refuses it, or no
            place takes it. A place that does not answer is no error: the job waits for it.
        """
        why = ""
        try:
            if spec.place == "auto":
                spec, why = self._placed(spec)
            check_paths(spec)
            job, new = self.ledger.create(spec)
            if new and why:
                self.ledger.record(job, "queued", asked=f"to run at {spec.place}: {why}")
            if job.job_id in (waiting.job_id for waiting in to_be_launched(self.ledger)):
                with self._launching(job):
                    self._launch(job)
        except OSError as error:
            raise DispatchError(
                f"job {spec.job_id} could not be entered in {self.ledger.folder}: {error}; free space there, or set "
                "PTYCHO_BLUESKY_HOME to a folder that can be written"
            ) from error
        return job.job_id

    def _moved(self, spec: JobSpec, place: str) -> tuple[JobSpec, str]:
        """Return a job for another place, which must be there and allow its files, and why it goes there."""
        place, reason = choose(spec, self.ledger) if place == "auto" else (place, "as asked for")
        spec = spec.model_copy(update={"place": place})
        launcher_at(place)
        check_paths(spec)
        return spec, f"to run at {place}: {reason}"

    def _placed(self, spec: JobSpec) -> tuple[JobSpec, str]:
        """Return a job with the place that it has, or that is chosen now, and why."""
        folder = JobFolder(self.ledger.folder / spec.job_id)
        if folder.status_file.exists():
            return folder.spec(), ""
        place, why = choose(spec, self.ledger)
        return spec.model_copy(update={"place": place}), why

    @contextlib.contextmanager
    def _launching(self, job: JobFolder) -> Iterator[None]:
        """Be the only one that may start this job's runner."""
        with file_lock(job.path / "launch.lock", timeout_s=KILL_S + 5) as ours:
            if not ours:
                raise DispatchError(f"another process has been starting job {job.job_id} for 10 s; end it, try again")
            yield

    def _launch(self, job: JobFolder) -> None:
        """Start the runner of a job that waits for its first one."""
        if job.runner_file.exists() or job.status().state != "queued":
            return
        with file_lock(job.path / "runner.lock") as free:
            if not free:
                return  # it has one: what started that died before it could note it
        place = job.spec().place
        launcher = self.launchers.get(place) or launcher_at(place)
        before = job.status()
        try:
            job.launched(launcher.launch(job))
        except FacilityError as error:
            if error.kind != "machine":
                self.ledger.record(job, "failed", kind=error.kind, reason=str(error))
                raise
            if before.reason != str(error):  # it waits until the place answers, and may be asked for often
                self.ledger.record(job, "queued", kind=error.kind, reason=str(error))
                logger.warning("job %s waits: %s", job.job_id, error)
        else:
            if before.kind:
                self.ledger.record(job, "queued", kind="", reason="")

    def _started_by(self, runner: Mapping[str, Any]) -> Launcher:
        return self.launchers.get(str(runner.get("place"))) or launcher_of(runner)

    def _works(self, job: JobFolder) -> bool:
        """Whether a runner is at work or waits, as far as its launcher, or else the heartbeat, can tell."""
        runner = job.runner()
        if runner is None:
            return False
        told = self._started_by(runner).alive(job, runner)
        return job.alive() if told is None else told

    def tend(self) -> list[str]:
        """Start the runners of jobs whose turn is near and that have none yet; quick, and safe to call at any time.

        Returns
        -------
        list of str
            Ids of these jobs. What cannot be started is logged, and tried again at the next call.
        """
        started = []
        for job in to_be_launched(self.ledger):
            try:
                with self._launching(job):
                    self._launch(job)
            except (DispatchError, OSError) as error:
                logger.warning("the runner of job %s could not be started: %s", job.job_id, error)
            else:
                started.append(job.job_id)
        return started

    def poll(self, job_id: str) -> JobStatus:
        """Return the job's status now; a job whose runner has died without a word is ``lost``."""
        return self.ledger.status(job_id)

    def reattach(self, job_id: str) -> JobStatus:
        """Return the status of a job of an earlier process; its runner is started where that was left undone."""
        job = self.ledger.job(job_id)
        with self._launching(job):
            self._launch(job)
        return self.ledger.status(job.job_id)

    def stop(self, job_id: str) -> JobStatus:
        """Ask a running job to end now and keep what it has; it becomes ``done``. A waiting one is cancelled."""
        job = self.ledger.job(job_id)
        status = self.ledger.status(job.job_id)
        if status.state == "queued":
            return self.cancel(job.job_id)
        if status.state == "running":
            job.stop_file.touch()
            with contextlib.suppress(DispatchError):  # it may end at this very moment
                self.ledger.record(job, "running", asked="stop and keep the result")
        return status

    def cancel(self, job_id: str, grace_s: float = GRACE_S) -> JobStatus:
        """End a job and drop what it has: asked first, then, after `grace_s` seconds, its process group is killed.

        One that is registering its result already is left 10 s for that, unless `grace_s` is 0.

        Returns
        -------
        JobStatus
            ``cancelled``, or the state in which the job had ended already.
        """
        job = self.ledger.job(job_id)
        status = self.ledger.status(job.job_id)
        if status.state in FINAL:
            return status
        job.cancel_file.touch()
        with contextlib.suppress(DispatchError):  # it may end at this very moment
            self.ledger.record(job, "cancelling", reason="cancelled by the user")
        self._wait_for_end(job, REGISTER_S if grace_s and job.result_file.exists() else grace_s)
        over = job.status().state in FINAL and job.status().state != "cancelled"
        if (runner := job.runner()) is not None and not over and self._works(job):
            self._started_by(runner).kill(job, runner)
            deadline = time.monotonic() + KILL_S
            while self._works(job) and time.monotonic() < deadline:
                time.sleep(0.02)
        if job.status().state not in FINAL:
            self.ledger.record(job, "cancelled", reason="cancelled by the user")
        self.tend()  # a killed runner starts no other
        return job.status()

    def _wait_for_end(self, job: JobFolder, seconds: float) -> None:
        """Wait until a job has ended by itself, its runner with it where it was cancelled; or for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._works(job):
            if job.status().state in ("done", "failed", "lost"):
                return
            time.sleep(0.02)

    def retry(self, job_id: str, why: str = "", *, place: str | None = None) -> JobStatus:
        """Start a failed, lost or cancelled job again; what it has finished already is not done twice.

        Parameters
        ----------
        job_id:
            Its id, or the beginning of one.
        why:
            For the job's history.
        place:
            Where to run it now; None for the same place.

        Raises
        ------
        DispatchError
            When the job is in another state, or the place does not take it.
        """
        job = self.ledger.job(job_id)
        with self._launching(job):
            status = self.ledger.status(job.job_id)
            if status.state not in ("failed", "lost", "cancelled"):
                raise DispatchError(
                    f"job {job.job_id} is {status.state}; only failed, lost and cancelled jobs can be retried"
                )
            moved = None if place is None else self._moved(job.spec(), place)
            deadline = time.monotonic() + KILL_S
            while self._works(job):  # it has said its last word, and is about to end
                if time.monotonic() > deadline:
                    raise DispatchError(f"the runner of job {job.job_id} does not end; cancel the job, then retry it")
                time.sleep(0.05)
            for flag in (job.cancel_file, job.stop_file, job.overdue_file, job.runner_file, job.heartbeat_file):
                flag.unlink(missing_ok=True)
            if moved is not None:
                job.move(moved[0])
                why = why or moved[1]
            self.ledger.record(job, "queued", attempt=status.attempt + 1, reason=why)
            self._launch(job)
        return job.status()


class LocalExecutor(Executor):
    """Jobs on this machine, each a detached process that survives the console.

    Parameters
    ----------
    slots:
        Jobs that may run at once on a device; the others wait in their own runners, which take turns by file locks.
        None for what the settings say of ``local``, or 1.
    ledger:
        None for the ledger of ``settings().home``.

    Raises
    ------
    DispatchError
        When `slots` is below 1.
    """

    def __init__(self, slots: int | None = None, ledger: Ledger | None = None) -> None:
        if slots is not None and slots < 1:
            raise DispatchError(f"slots is {slots}; at least 1 job must be allowed to run at once")
        super().__init__(ledger, {"local": LocalLauncher("local", settings().resources.get("local"), slots=slots)})
