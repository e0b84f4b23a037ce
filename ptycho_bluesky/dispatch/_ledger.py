"""The ledger: an SQLite index over the job folders, which are the truth. It can be rebuilt from them at any time."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._status import FINAL, JobState, JobStatus
from ptycho_bluesky.errors import DispatchError

__all__ = ["Ledger", "LedgerElsewhere"]

logger = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY, raw_uid TEXT, device TEXT NOT NULL, priority INTEGER NOT NULL,
    state TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL, registered INTEGER
)
"""

UPSERT = "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

ACTIVE = "('queued', 'running', 'cancelling')"

LOCK_S = 10.0
"""Longest time that another process may be at the ledger; each look takes milliseconds."""


def _row(job: JobFolder, status: JobStatus) -> tuple[Any, ...]:
    spec = job.spec()
    registered = None if status.registered is None else int(status.registered)
    known = (job.job_id, spec.raw_uid, spec.resource, spec.priority)
    return (*known, status.state, status.created, status.updated, registered)


class Ledger:
    """All jobs of one ``home``.

    Parameters
    ----------
    folder:
        Of the jobs; None for ``settings().home / "jobs"``.

    Raises
    ------
    DispatchError
        When the folder cannot be made, or later its ledger not be read or written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = settings().home / "jobs" if folder is None else folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DispatchError(
                f"the folder of the jobs {self.folder} cannot be made: {error}; set PTYCHO_BLUESKY_HOME to a folder "
                "that can be written"
            ) from None
        self.path = self.folder / "ledger.db"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only process at the ledger: SQLite's own locks do not cover the change to WAL, nor the rebuilding."""
        with file_lock(self.folder / "ledger.lock", timeout_s=LOCK_S) as ours:
            if not ours:
                raise DispatchError(
                    f"another process has held {self.folder / 'ledger.lock'} for {LOCK_S:.0f} s; find it with "
                    "`fuser`, and end it"
                )
            yield

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=LOCK_S, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode=wal")
            # The folders are synced to the disk; the ledger can be rebuilt, and syncing it too would cost the
            # RunEngine 30 ms a job.
            database.execute("PRAGMA synchronous=off")
            database.execute(SCHEMA)
            yield database

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._open() as database:
            return database.execute(statement, values).fetchall()

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Execute one statement; a damaged ledger is set aside and rebuilt first."""
        with self._alone():
            try:
                return self._execute(statement, values)
            except sqlite3.OperationalError as error:
                if "malformed" not in str(error):
                    what = f"the ledger {self.path} cannot be used: {error}; free the disk, or mend its permissions"
                    raise DispatchError(what) from None
                problem: sqlite3.Error = error
            except sqlite3.DatabaseError as error:
                problem = error
            aside = self.path.with_name(f"ledger.damaged-{time.strftime('%Y%m%dT%H%M%S')}.db")
            logger.error(
                "the ledger %s is damaged (%s); it is kept as %s and made anew", self.path, problem, aside.name
            )
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self._read_folders()
            return self._execute(statement, values)

    def _read_folders(self) -> int:
        rows = []
        for spec_file in self.folder.glob("*/spec.json"):
            job = JobFolder(spec_file.parent)
            try:
                rows.append(_row(job, job.status()))
            except DispatchError as error:
                logger.warning("%s", error)
        with self._open() as database:
            database.execute("BEGIN")
            database.execute("DELETE FROM jobs")
            database.executemany(UPSERT, rows)
            database.execute("COMMIT")
        return len(rows)

    def _index(self, job: JobFolder, status: JobStatus) -> None:
        self._run(UPSERT, _row(job, status))

    def rebuild(self) -> int:
        """Read all job folders anew and return how many jobs there are. Folders that hold no job are skipped."""
        with self._alone():
            return self._read_folders()

    def job(self, job_id: str) -> JobFolder:
        """Return the folder of a job, given its id or the beginning of one.

        Raises
        ------
        DispatchError
            When there is no such job, or more than one.
        """
        if job_id and (self.folder / job_id / "spec.json").exists():
            return JobFolder(self.folder / job_id)
        found = [p.parent for p in self.folder.glob("*/spec.json") if job_id and p.parent.name.startswith(job_id)]
        if len(found) != 1:
            what = "no job" if not found else f"{len(found)} jobs"
            raise DispatchError(f"{what} with an id that begins with {job_id!r}; `ptycho-bluesky jobs list` shows all")
        return JobFolder(found[0])

    def create(self, spec: JobSpec) -> tuple[JobFolder, bool]:
        """Return the job of a spec, and whether it is new."""
        job = JobFolder(self.folder / spec.job_id)
        new = job.create(spec)
        self._index(job, job.status())
        return job, new

    def record(self, job: JobFolder, state: JobState, **news: Any) -> JobStatus:
        """Write the state of a job, or news of it, into its folder and the ledger.

        Raises
        ------
        DispatchError
            When `state` may not follow the present one.
        """
        status = job.record(state, **news)
        try:
            self._index(job, status)
        except DispatchError as error:  # the folder has it; the ledger learns it at the next look
            logger.warning("%s", error)
        return status

    def status(self, job_id: str) -> JobStatus:
        """Return a job's status; a job whose runner has died without a word becomes ``lost`` here."""
        job = self.job(job_id)
        status = job.status()
        if status.state not in FINAL and not job.alive():
            time.sleep(0.05)
            status = job.status()  # it may have ended between the two looks, or have been about to begin
            if status.state not in FINAL and not job.alive():
                if job.overdue_file.exists():
                    limit = job.overdue_file.read_text()
                    reason = (
                        f"it did not end within its limit of {limit} s and the watchdog killed it; give a larger "
                        f"limit_s (or walltime_s of its place), or see by `jobs logs {job.job_id[:8]}` where it hangs"
                    )
                    return self.record(job, "failed", kind="time", reason=reason)
                if status.state == "cancelling":  # what cancelled it was killed too
                    return self.record(job, "cancelled")
                if (ending := job.ending()) is not None:
                    return self.record(job, ending.state, kind=ending.kind, reason=ending.reason)
                reason = (
                    f"the runner ended without a word while the job was {status.state}; `jobs logs {job.job_id[:8]}` "
                    f"shows what it said last, `jobs retry {job.job_id[:8]}` starts it again"
                )
                return self.record(job, "lost", reason=reason)
        return status

    def jobs(self, state: JobState | None = None, raw_uid: str | None = None) -> list[JobStatus]:
        """Return the jobs, newest first, of one state or one run (`raw_uid`) where given; lost ones are detected."""
        folders = {path.parent.name for path in self.folder.glob("*/status.jsonl")}
        if {job_id for (job_id,) in self._run("SELECT job_id FROM jobs")} != folders:
            self.rebuild()  # a power cut took the last entries, or a folder was deleted
        rows = self._run("SELECT job_id, state FROM jobs WHERE ? IS NULL OR raw_uid = ?", (raw_uid, raw_uid))
        statuses = []
        for job_id, known in rows:
            statuses.append(self.refreshed(JobFolder(self.folder / job_id), known))
        chosen = [s for s in statuses if state is None or s.state == state]
        return sorted(chosen, key=lambda s: s.created, reverse=True)

    def unfinished(self) -> list[JobStatus]:
        """Return the jobs that have not ended, in no order; those whose runner has died are detected."""
        rows = self._run(f"SELECT job_id, state FROM jobs WHERE state IN {ACTIVE}")
        there = [(JobFolder(self.folder / job_id), known) for job_id, known in rows]
        statuses = [self.refreshed(job, known) for job, known in there if job.spec_file.exists()]
        return [status for status in statuses if status.state not in FINAL]

    def refreshed(self, job: JobFolder, known: str = "queued") -> JobStatus:
        """Return a job's status; the ledger, which knows it as `known`, learns it where it has changed."""
        status = self.status(job.job_id)
        if status.state != known:  # what wrote it was killed before it told the ledger, or is on another machine
            self._index(job, status)
        return status

    def ended(self, since: float) -> list[JobStatus]:
        """Return the jobs that failed or were lost since then (seconds since 1970), as the ledger knows them."""
        rows = self._run("SELECT job_id FROM jobs WHERE state IN ('lost', 'failed') AND updated >= ?", (since,))
        jobs = (JobFolder(self.folder / job_id) for (job_id,) in rows)
        return [job.status() for job in jobs if job.spec_file.exists()]

    def queues(self) -> dict[str, list[str]]:
        """Return the ids of the jobs that wait, as the ledger knows them, by what they wait for; the next one first."""
        which = "SELECT device, job_id FROM jobs WHERE state = 'queued' ORDER BY priority DESC, created, job_id"
        queues: dict[str, list[str]] = {}
        for resource, job_id in self._run(which):
            queues.setdefault(resource, []).append(job_id)
        return queues

    def active(self, resource: str) -> list[JobFolder]:
        """Return the jobs that wait for a resource or have it, as their folders know them; the oldest first."""
        which = f"SELECT job_id FROM jobs WHERE state IN {ACTIVE} AND device = ? ORDER BY created, job_id"
        jobs = [JobFolder(self.folder / job_id) for (job_id,) in self._run(which, (resource,))]
        return [job for job in jobs if job.status().state not in FINAL]

    def pending(self) -> list[JobFolder]:
        """Return the finished jobs whose result is not in Tiled yet."""
        away = f"SELECT job_id FROM jobs WHERE state IN {ACTIVE} AND device != 'cpu' AND device NOT GLOB 'cuda:*'"
        for (job_id,) in self._run(away):  # their runners write into the folder alone
            self._index(self.job(job_id), self.status(job_id))
        rows = self._run("SELECT job_id FROM jobs WHERE state = 'done' AND registered = 0 ORDER BY created")
        return [JobFolder(self.folder / job_id) for (job_id,) in rows]


class LedgerElsewhere(Ledger):
    """The ledger as a runner on another machine has it: folders alone, since SQLite needs one machine's memory.

    The ledger learns what happened there at its next look at the folders.
    """

    def _index(self, job: JobFolder, status: JobStatus) -> None:
        """Leave the index alone."""

    def pending(self) -> list[JobFolder]:
        """Return none: others see to them."""
        return []
