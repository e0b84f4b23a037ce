"""Jobs by their id, as consoles, callbacks and the command line use them.

What is done to a job goes through the dispatcher service where one runs, else it is done by this process; what is told
of jobs comes from their folders, or from the dispatcher on another machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._executor import GRACE_S, Executor
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._status import FINAL, JobStatus
from ptycho_bluesky.dispatch._warm_client import ensure_warm
from ptycho_bluesky.dispatch.service import DispatcherClient, dispatcher
from ptycho_bluesky.errors import DispatcherAwayError, DispatchError

__all__ = [
    "AnyExecutor",
    "cancel",
    "history",
    "jobs",
    "logs",
    "retry",
    "spec_of",
    "status",
    "stop",
    "submit",
    "wait",
    "warm_up",
]

T = TypeVar("T")

TEND_S = 1.0
"""Time between two looks, while waiting, whether runners must be started."""


def _do(act: Callable[[DispatcherClient | Executor], T]) -> T:
    service = dispatcher()
    if service is not None:
        try:
            return act(service)
        except DispatcherAwayError:
            if settings().dispatcher_uri is not None:
                raise
            # That of this home was killed at this very moment; what it did is done again without harm.
    return act(Executor())


def _elsewhere() -> DispatcherClient | None:
    """Return the dispatcher on another machine that the settings name."""
    return None if settings().dispatcher_uri is None else dispatcher()


class AnyExecutor(Executor):
    """An executor for consoles: the dispatcher service where one runs, else this process."""

    def submit(self, spec: JobSpec) -> str:
        """Enter a job and return its id."""
        return submit(spec)

    def poll(self, job_id: str) -> JobStatus:
        """Return the job's status now."""
        return status(job_id)

    def cancel(self, job_id: str, grace_s: float = GRACE_S) -> JobStatus:
        """End a job and drop what it has."""
        return cancel(job_id, grace_s)


def submit(spec: JobSpec) -> str:
    """Enter a job and return its id; equal specs of one run are one job."""
    return _do(lambda at: at.submit(spec))


def jobs(state: Any = None, raw_uid: str | None = None) -> list[JobStatus]:
    """Return the jobs, newest first; of one state, or of one run (`raw_uid`), where these are given."""
    if (service := _elsewhere()) is not None:
        return service.jobs(state, raw_uid)
    found = Ledger().jobs(state, raw_uid)
    Executor().tend()
    return found


def status(job_id: str) -> JobStatus:
    """Return the status of a job, given its id or the beginning of one."""
    service = _elsewhere()
    return Ledger().status(job_id) if service is None else service.status(job_id)


def spec_of(job_id: str) -> JobSpec:
    """Return the specification of a job."""
    service = _elsewhere()
    return Ledger().job(job_id).spec() if service is None else service.spec(job_id)


def warm_up() -> None:
    """Start a process that loads the engines and forks the runners of jobs to come; without a job it ends in 15 min.

    For sessions without a dispatcher, e.g. when a scan begins. It returns at once; the engines take some seconds.
    """
    if _elsewhere() is None:
        ensure_warm(Ledger().folder)


def cancel(job_id: str, grace_s: float = GRACE_S) -> JobStatus:
    """End a job and drop what it has: asked first; killed, with its children, after `grace_s` seconds."""
    return _do(lambda at: at.cancel(job_id, grace_s))


def stop(job_id: str) -> JobStatus:
    """Ask a running job to end now and keep its result."""
    return _do(lambda at: at.stop(job_id))


def retry(job_id: str, place: str | None = None) -> JobStatus:
    """Start a failed, lost or cancelled job again, at another place (``"auto"`` chooses) where one is given.

    Raises
    ------
    DispatchError
        When there is no such job, its state does not allow it, or a dispatcher elsewhere would have to move it.
    """
    if place is None:
        return _do(lambda at: at.retry(job_id))
    if _elsewhere() is not None:
        raise DispatchError("a job of a dispatcher on another machine is moved there, by `jobs retry --place`")
    return Executor().retry(job_id, place=place)


def logs(job_id: str, lines: int = 50) -> str:
    """Return the last `lines` of a job's log."""
    service = _elsewhere()
    return Ledger().job(job_id).log_tail(lines) if service is None else service.logs(job_id, lines)


def history(job_id: str) -> list[dict[str, Any]]:
    """Return who did what with a job when: see :meth:`JobFolder.history`."""
    service = _elsewhere()
    return Ledger().job(job_id).history() if service is None else service.history(job_id)


def wait(
    job_id: str,
    timeout: float = 3600.0,
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    poll_s: float = 0.1,
) -> JobStatus:
    """Wait until a job is done, failed, cancelled or lost, and return its status.

    Parameters
    ----------
    job_id:
        Its id, or the beginning of one.
    timeout:
        Longest time to wait, seconds.
    on_progress:
        Called with each news of the engine: ``epoch``, ``epochs``, ``r_factor``, ``seconds``, ``seconds_left``; of a
        training ``step``, ``steps`` and its curves' last values.
    poll_s:
        Seconds between two looks.

    Raises
    ------
    DispatchError
        When the time is over and the job is not; it goes on.
    """
    deadline, tended, here = time.monotonic() + timeout, 0.0, _elsewhere() is None
    seen: dict[str, Any] = {}
    while True:
        now = status(job_id)
        if here and time.monotonic() - tended > TEND_S:
            tended = time.monotonic()
            Executor().tend()
        if on_progress is not None and now.progress and now.progress != seen:
            seen = now.progress
            on_progress(seen)
        if now.state in FINAL:
            return now
        if time.monotonic() > deadline:
            raise DispatchError(
                f"job {now.job_id} is still {now.state} after {timeout:.0f} s; it goes on: wait longer, or cancel it"
            )
        time.sleep(poll_s)
