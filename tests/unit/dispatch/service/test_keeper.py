"""What the dispatcher does by itself."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import JobFolder, JobSpec, Ledger, LocalExecutor, runner
from ptycho_bluesky.dispatch._launcher import LocalLauncher
from ptycho_bluesky.dispatch._turn import wait_for_turn
from ptycho_bluesky.dispatch.service import _keeper
from ptycho_bluesky.dispatch.service._keeper import Keeper
from ptycho_bluesky.errors import DispatchError

Make = Callable[..., JobSpec]


@pytest.fixture
def started(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the jobs whose runners were started, which live on for ever."""
    ids: list[str] = []

    def launch(self: Any, job: JobFolder) -> dict[str, Any]:
        ids.append(job.job_id)
        (job.path / "dead").unlink(missing_ok=True)
        return {"kind": "local", "place": "local", "pid": 2**22 - 1}

    monkeypatch.setattr(LocalLauncher, "launch", launch)
    monkeypatch.setattr(LocalLauncher, "alive", lambda self, job, runner: not (job.path / "dead").exists())
    monkeypatch.setattr(LocalLauncher, "kill", lambda self, job, runner: (job.path / "dead").touch())
    return ids


def test_a_fault_of_the_machine_is_retried_so_often_and_no_other_one(started: list[str], make_spec: Make) -> None:
    executor = LocalExecutor()
    keeper, ledger = Keeper(executor, retries=2), executor.ledger
    lost, machine, user, cancelled = (ledger.job(executor.submit(make_spec(raw_uid=str(i)))) for i in range(4))
    ledger.record(user, "failed", kind="user", reason="no such file")
    executor.cancel(cancelled.job_id, grace_s=0)
    for attempt in (1, 2):
        ledger.record(lost, "running")
        ledger.record(machine, "failed", kind="machine", reason="SIGTERM")
        keeper.tend()
        assert machine.status().attempt == lost.status().attempt == attempt  # their runners live, as yet
        for job in (lost, machine):
            (job.path / "dead").touch()
        keeper.tend()
        assert machine.status().attempt == lost.status().attempt == attempt + 1
        assert lost.status().state == "queued"
        why = [event["reason"] for event in lost.history() if event["state"] == "queued" and "reason" in event]
        assert len(why) == attempt and f"retried by the dispatcher, {attempt} of 2: the runner ended" in why[-1]
    ledger.record(machine, "failed", kind="machine", reason="SIGTERM")
    (machine.path / "dead").touch()
    keeper.tend()
    assert machine.status().state == "failed"  # enough
    assert (user.status().attempt, user.status().state) == (1, "failed")
    assert (cancelled.status().attempt, cancelled.status().state) == (1, "cancelled")


def test_what_was_lost_long_ago_stays_lost(
    started: list[str], make_spec: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = LocalExecutor()
    job = executor.ledger.job(executor.submit(make_spec()))
    executor.ledger.record(job, "lost", reason="power cut")
    (job.path / "dead").touch()
    real = time.time
    with monkeypatch.context() as later:
        later.setattr(_keeper.time, "time", lambda: real() + 2 * _keeper.YOUNG_S)
        Keeper(executor, retries=2).tend()
    assert job.status().state == "lost"


def test_few_runners_wait_and_the_next_ones_are_started_as_these_end(started: list[str], make_spec: Make) -> None:
    executor = LocalExecutor()
    ids = [executor.submit(make_spec(raw_uid=str(i))) for i in range(7)]
    assert started == ids[:4]
    executor.ledger.record(executor.ledger.job(ids[0]), "running")
    urgent = executor.submit(make_spec(raw_uid="urgent", priority=9))
    assert started == [*ids[:4], urgent]  # its turn is the next
    executor.ledger.record(executor.ledger.job(ids[0]), "done", registered=True)
    executor.cancel(ids[1], grace_s=0)
    Keeper(executor, retries=0).tend()
    assert started == [*ids[:4], urgent, ids[4]]
    assert executor.tend() == []


def test_while_a_warm_process_loads_one_runner_starts_cold(started: list[str], make_spec: Make) -> None:
    executor = LocalExecutor()
    with file_lock(executor.ledger.folder / "warm.lock"):
        ids = [executor.submit(make_spec(raw_uid=str(i))) for i in range(3)]
        assert started == ids[:1]
    assert executor.tend() == ids[1:] == started[1:]


def test_jobs_whose_folders_were_deleted_keep_nobody_waiting(started: list[str], make_spec: Make) -> None:
    executor = LocalExecutor()
    for i in range(5):
        job_id = executor.submit(make_spec(raw_uid=str(i)))
        shutil.rmtree(executor.ledger.folder / job_id)
    job_id = executor.submit(make_spec(raw_uid="5"))
    Keeper(executor, retries=1).tend()
    assert started[-1] == job_id


def test_a_runner_that_died_while_it_was_being_cancelled_is_cancelled(started: list[str], make_spec: Make) -> None:
    executor = LocalExecutor()
    job = executor.ledger.job(executor.submit(make_spec()))
    executor.ledger.record(job, "cancelling", reason="cancelled by the user")
    (job.path / "dead").touch()
    Keeper(executor, retries=2).tend()
    assert (job.status().state, job.status().attempt) == ("cancelled", 1)


def test_a_fault_in_one_duty_does_not_end_the_others(
    started: list[str], make_spec: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_keeper, "TEND_S", 0.01)
    seen: list[str] = []

    def broken(self: Keeper) -> None:
        seen.append("")
        if len(seen) == 1:
            raise OSError("no space left")

    monkeypatch.setattr(Keeper, "tend", broken)
    keeper = Keeper(LocalExecutor(), retries=0, warm=False)
    keeper.start()
    deadline = time.monotonic() + 10
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    keeper.stop()
    assert len(seen) >= 3 and "tending failed" in caplog.text


def test_old_files_are_cleaned_only_where_the_policy_says_so(
    started: list[str], make_spec: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = LocalExecutor()
    job = executor.ledger.job(executor.submit(make_spec()))
    job.result_file.write_bytes(b"result")
    executor.ledger.record(job, "running")
    executor.ledger.record(job, "done", registered=True)
    keeper = Keeper(executor, retries=0)
    keeper.clean()
    assert job.result_file.exists()
    monkeypatch.setenv("PTYCHO_BLUESKY_KEEP_DAYS", "1e-9")
    settings.cache_clear()
    keeper.clean()
    assert not job.result_file.exists() and Ledger().status(job.job_id).state == "done"


def test_a_runner_that_was_started_twice_leaves_what_is_done_alone(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec())
    ledger.record(job, "running")
    ledger.record(job, "done", registered=True)
    before = job.status_file.read_bytes()
    assert runner.main(job.path, 1) == 0
    assert job.status_file.read_bytes() == before


def test_a_runner_whose_job_was_deleted_does_not_wait_for_ever(home: Path) -> None:
    with pytest.raises(DispatchError, match="no job"):
        wait_for_turn(Ledger(), "deleted", "cpu", 1, lambda: False)
