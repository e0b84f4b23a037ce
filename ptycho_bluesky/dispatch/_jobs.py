"""Jobs by their id, as consoles, callbacks and the command line use them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ptycho_bluesky.dispatch._executor import LocalExecutor
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._status import FINAL, JobStatus
from ptycho_bluesky.errors import DispatchError

__all__ = ["cancel", "history", "jobs", "logs", "retry", "status", "stop", "submit", "wait"]


def submit(spec: JobSpec) -> str:
    """Enter a job on this machine and return its id; equal specs of one run are one job."""
    return LocalExecutor().submit(spec)


def jobs(state: Any = None, raw_uid: str | None = None) -> list[JobStatus]:
    """Return the jobs, newest first; of one state, or of one run, where these are given."""
    return Ledger().jobs(state, raw_uid)


def status(job_id: str) -> JobStatus:
    """Return the status of a job, given its id or the beginning of one."""
    return Ledger().status(job_id)


def cancel(job_id: str, grace_s: float = 10.0) -> JobStatus:
    """End a job and drop what it has: asked first; killed, with its children, after `grace_s` seconds."""
    return LocalExecutor().cancel(job_id, grace_s)


def stop(job_id: str) -> JobStatus:
    """Ask a running job to end now and keep its result."""
    return LocalExecutor().stop(job_id)


def retry(job_id: str) -> JobStatus:
    """Start a failed, lost or cancelled job again."""
    return LocalExecutor().retry(job_id)


def logs(job_id: str, lines: int = 50) -> str:
    """Return the end of a job's log."""
    return Ledger().job(job_id).log_tail(lines)


def history(job_id: str) -> list[dict[str, Any]]:
    """Return who did what with a job when: see :meth:`JobFolder.history`."""
    return Ledger().job(job_id).history()


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
    ledger, deadline = Ledger(), time.monotonic() + timeout
    seen: dict[str, Any] = {}
    while True:
        now = ledger.status(job_id)
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
