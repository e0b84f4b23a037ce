"""Disk space of old jobs: large files go, what was done by whom stays."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._spec import ReconstructionSource
from ptycho_bluesky.dispatch._status import FINAL, JobStatus

__all__ = ["Cleaned", "clean"]

KEPT = ("spec.json", "status.jsonl", "log.txt", "status.lock", "launch.lock", "register.lock", "runner.lock")
"""Files that stay: a job that is submitted again is still the same one, and its history can be told."""

DAY_S = 86400.0


@dataclass(frozen=True)
class Cleaned:
    """What was deleted of a job."""

    job_id: str
    files: tuple[str, ...]
    bytes: int


def _over(status: JobStatus, ledger: Ledger) -> bool:
    """Whether nobody needs the files of a job any more."""
    if status.state not in FINAL or (status.state == "done" and not status.registered):
        return False  # the only copy of a result that waits for Tiled
    return ledger.job(status.job_id).runner_pid() is None


def _needed(ledger: Ledger, statuses: list[JobStatus]) -> set[str]:
    """Return the reconstructions that trainings still wait to read."""
    needed = set()
    for status in statuses:
        if status.state not in FINAL:
            source = ledger.job(status.job_id).spec().source
            if isinstance(source, ReconstructionSource):
                needed.add(source.job_id)
    return needed


def clean(older_than_days: float = 30.0, *, ledger: Ledger | None = None, dry_run: bool = False) -> list[Cleaned]:
    """Delete the large files of jobs that ended long ago: results that are in Tiled, partial ones, checkpoints.

    A result that is not in Tiled yet is never deleted. Specification, history and log stay; a failed, lost or cancelled
    job can still be retried, from its beginning.

    Parameters
    ----------
    older_than_days:
        Since their end.
    ledger:
        None for the ledger of ``settings().home``.
    dry_run:
        Only tell.

    Returns
    -------
    list of Cleaned
        One for each job of which something was deleted.
    """
    ledger = ledger or Ledger()
    statuses, cleaned = ledger.jobs(), []
    needed, before = _needed(ledger, statuses), time.time() - older_than_days * DAY_S
    for status in statuses:
        if status.updated >= before or status.job_id in needed or not _over(status, ledger):
            continue
        job: JobFolder = ledger.job(status.job_id)
        kept = {job.path / name for name in KEPT}
        files = [f for f in sorted(job.path.rglob("*")) if f.is_file() and f not in kept]
        if not files:
            continue
        size = sum(f.stat().st_size for f in files)
        if not dry_run:
            for file in files:
                file.unlink(missing_ok=True)
        cleaned.append(Cleaned(status.job_id, tuple(str(f.relative_to(job.path)) for f in files), size))
    return cleaned
