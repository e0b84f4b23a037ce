from __future__ import annotations

import itertools
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest

from ptycho_bluesky.dispatch import FINAL, TRANSITIONS, JobFolder, JobSpec, JobState, Ledger
from ptycho_bluesky.errors import DispatchError

Make = Callable[..., JobSpec]


def test_only_legal_transitions(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    for number, (before, after) in enumerate(itertools.product(get_args(JobState), repeat=2)):
        job, _ = ledger.create(make_spec(raw_uid=str(number)))
        job.status_file.write_text(json.dumps({"t": 1.0, "state": before}) + "\n")
        if before == after or after in TRANSITIONS[before]:
            assert ledger.record(job, after).state == after
        else:
            with pytest.raises(DispatchError, match=f"is {before}; it cannot become {after}"):
                ledger.record(job, after)
            assert job.status().state == before
    assert set(TRANSITIONS) == set(get_args(JobState)) and set(FINAL) < set(TRANSITIONS)


def test_created_at_once_by_many_it_is_one_job(home: Path, make_spec: Make) -> None:
    spec = make_spec()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Ledger().create(spec)[1], range(8)))
    assert sum(made) == 1
    assert [s.job_id for s in Ledger().jobs()] == [spec.job_id]
    assert len(JobFolder(home / "jobs" / spec.job_id).status_file.read_text().splitlines()) == 1


def test_the_ledger_is_rebuilt_from_the_folders(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    jobs = [ledger.create(make_spec(raw_uid=f"run-{i}"))[0] for i in range(3)]
    ledger.record(jobs[0], "running")
    ledger.record(jobs[0], "done", registered=False)
    before = {s.job_id: s for s in ledger.jobs()}
    (home / "jobs" / "no-job").mkdir()
    (home / "jobs" / "no-job" / "spec.json").write_text("{}")
    ledger.path.unlink()
    assert ledger.rebuild() == 3
    assert {s.job_id: s for s in ledger.jobs()} == before
    assert [j.job_id for j in ledger.pending()] == [jobs[0].job_id]
    assert [s.job_id for s in ledger.jobs(raw_uid="run-1")] == [jobs[1].job_id]
    assert [s.job_id for s in ledger.jobs("done")] == [jobs[0].job_id]


@pytest.mark.parametrize("damage", [b"not a database at all, but long enough to be read as one" * 200, b""])
def test_a_damaged_ledger_is_set_aside_and_rebuilt(home: Path, make_spec: Make, damage: bytes) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec())
    ledger.path.write_bytes(damage)
    for suffix in ("-wal", "-shm"):
        Path(f"{ledger.path}{suffix}").unlink(missing_ok=True)
    if not damage:
        ledger.rebuild()  # an empty file is an empty ledger
    assert [s.job_id for s in Ledger().jobs()] == [job.job_id]
    assert bool(list(ledger.folder.glob("ledger.damaged-*.db"))) == bool(damage)


def test_a_ledger_that_lags_behind_the_folders_catches_up(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    lagging, deleted, unknown = (ledger.create(make_spec(raw_uid=str(i)))[0] for i in range(3))
    lagging.record("running")
    lagging.record("done", registered=False)
    with closing(sqlite3.connect(ledger.path)) as database, database:
        database.execute("DELETE FROM jobs WHERE job_id = ?", (unknown.job_id,))
    shutil.rmtree(deleted.path)
    unknown.create(make_spec(raw_uid="2"))
    (home / "jobs" / "x").mkdir()
    assert {s.job_id for s in ledger.jobs()} == {lagging.job_id, unknown.job_id}
    assert [j.job_id for j in ledger.pending()] == [lagging.job_id]


def test_a_torn_status_line_is_skipped_and_the_next_one_stands_alone(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec())
    with job.status_file.open("a") as file:
        file.write('{"t": 1, "state": "runn')
    assert job.status().state == "queued"
    ledger.record(job, "running")
    assert job.status().state == "running"


def test_a_full_disk_still_takes_the_news_of_it(home: Path, make_spec: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = Ledger().create(make_spec())
    job.keep_reserve()
    real = JobFolder._write

    def full(self: JobFolder, data: bytes) -> None:
        if (self.path / "reserve").exists():
            raise OSError(28, "No space left on device")
        real(self, data)

    monkeypatch.setattr(JobFolder, "_write", full)
    assert job.record("failed", kind="disk", reason="disk full").reason == "disk full"


def test_a_job_whose_runner_died_is_lost_and_a_pid_given_anew_does_not_hide_it(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec())
    assert ledger.status(job.job_id).state == "queued"  # it waits for its launch
    job.launched({"pid": os.getpid()})  # alive, but no runner of this job
    status = ledger.status(job.job_id)
    assert status.state == "lost" and "jobs retry" in status.reason


def test_on_another_host_the_heartbeat_counts(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec())
    job.runner_file.write_text(json.dumps({"pid": 1, "host": "elsewhere", "t": 0}))
    job.beat()
    assert ledger.status(job.job_id).state == "queued"
    old = time.time() - 3600
    os.utime(job.heartbeat_file, (old, old))
    assert ledger.status(job.job_id).state == "lost"


def test_jobs_are_found_by_the_beginning_of_their_id(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec())
    assert ledger.job(job.job_id[:8]).job_id == job.job_id
    for wrong in ("", "zzz"):
        with pytest.raises(DispatchError, match="no job with an id"):
            ledger.job(wrong)


def test_the_queue_goes_by_priority_then_age(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    jobs = [ledger.create(make_spec(priority=p, raw_uid=str(i)))[0] for i, p in enumerate((0, 5, 0, 5))]
    assert ledger.queues() == {"cpu": [jobs[i].job_id for i in (1, 3, 0, 2)]}


def test_a_new_attempt_forgets_what_the_old_one_said(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec())
    ledger.record(job, "failed", kind="user", reason="no such file")
    status = ledger.record(job, "queued", attempt=2)
    assert (status.attempt, status.reason, status.kind) == (2, "", "")
