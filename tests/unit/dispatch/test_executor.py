"""Jobs in processes of their own."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import until

from ptycho_bluesky.dispatch import (
    JobFolder,
    JobSpec,
    Ledger,
    LocalExecutor,
    cancel,
    jobs,
    logs,
    retry,
    stop,
    submit,
    wait,
)
from ptycho_bluesky.dispatch import status as job_status
from ptycho_bluesky.errors import DispatchError

Make = Callable[..., JobSpec]
LONG = 100_000


def running(job_id: str) -> None:
    """Wait until the engine is at work."""
    until(lambda: bool(job_status(job_id).progress))


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_submitted_twice_it_is_one_job_in_a_session_of_its_own(home: Path, make_spec: Make) -> None:
    spec = make_spec(epochs=5)
    begin = time.perf_counter()
    job_id = submit(spec)
    assert time.perf_counter() - begin < 0.5
    assert submit(spec) == job_id
    pid = JobFolder(home / "jobs" / job_id).runner_pid()
    assert pid is not None and os.getsid(pid) == pid
    news: list[int] = []
    done = wait(job_id, 30, on_progress=lambda p: news.append(p["epoch"]))
    assert done.state == "done" and done.attempt == 1 and news[-1] == 5
    assert submit(spec) == job_id and job_status(job_id).state == "done"
    assert [s.job_id for s in jobs()] == [job_id]
    assert "64 frames" in logs(job_id)
    until(lambda: Ledger().job(job_id).runner_pid() is None)


def test_one_runs_the_others_wait_and_both_can_be_cancelled(home: Path, make_spec: Make) -> None:
    first, second = submit(make_spec(LONG, raw_uid="1")), submit(make_spec(LONG, raw_uid="2"))
    running(first)
    assert job_status(second).state == "queued"
    assert cancel(second).state == "cancelled"
    with pytest.raises(DispatchError, match=r"still running after 0 s"):
        wait(first, 0.2)
    begin = time.monotonic()
    assert cancel(first).state == "cancelled"
    assert time.monotonic() - begin < 5
    assert cancel(first).state == "cancelled"  # once more does no harm
    assert not JobFolder(home / "jobs" / first).result_file.exists()
    until(lambda: all(Ledger().job(j).runner_pid() is None for j in (first, second)))


def test_a_runner_that_does_not_listen_is_killed_after_the_grace_time(home: Path, make_spec: Make) -> None:
    job_id = submit(make_spec(LONG))
    running(job_id)
    pid = Ledger().job(job_id).runner_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # it hears nothing
    assert cancel(job_id, grace_s=0.5).state == "cancelled"
    until(lambda: Ledger().job(job_id).runner_pid() is None)


def test_stop_keeps_what_there_is(home: Path, make_spec: Make) -> None:
    job_id = submit(make_spec(LONG))
    running(job_id)
    stop(job_id)
    done = wait(job_id, 15)
    assert done.state == "done" and done.stopped
    assert JobFolder(home / "jobs" / job_id).result_file.exists()
    until(lambda: Ledger().job(job_id).runner_pid() is None)


def test_a_killed_runner_is_lost_and_a_retry_does_the_work(home: Path, make_spec: Make) -> None:
    job_id = submit(make_spec(3000, max_seconds=1.0))
    with pytest.raises(DispatchError, match="only failed, lost and cancelled jobs"):
        retry(job_id)
    running(job_id)
    pid = Ledger().job(job_id).runner_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: job_status(job_id).state == "lost", 5)
    assert retry(job_id[:8]).attempt == 2
    assert wait(job_id, 20).state == "done"
    until(lambda: Ledger().job(job_id).runner_pid() is None)


def test_a_console_that_died_before_the_launch_is_made_good_by_the_next_submit(home: Path, make_spec: Make) -> None:
    spec = make_spec()
    Ledger().create(spec)
    assert LocalExecutor().submit(spec) == spec.job_id
    assert wait(spec.job_id, 20).state == "done"
    until(lambda: Ledger().job(spec.job_id).runner_pid() is None)


def test_retried_twice_at_once_it_is_one_attempt(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec())
    ledger.record(job, "failed")

    def try_again(_: int) -> bool:
        try:
            retry(job.job_id)
        except DispatchError as error:
            assert "can be retried" in str(error)
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(try_again, range(4))) == 1
    done = wait(job.job_id, 30)
    assert (done.state, done.attempt) == ("done", 2)
    until(lambda: Ledger().job(job.job_id).runner_pid() is None)


def test_a_limit_on_the_disk_is_a_failure_in_words(home: Path, make_spec: Make) -> None:
    with file_size_limit(100_000):  # the result is larger, everything else is smaller
        job_id = submit(make_spec())
    failed = wait(job_id, 20)
    assert (failed.state, failed.kind) == ("failed", "disk"), failed
    assert retry(job_id).state in ("queued", "running")
    assert wait(job_id, 20).state == "done"
    until(lambda: Ledger().job(job_id).runner_pid() is None)


def test_a_home_that_cannot_be_written_is_named(home: Path, make_spec: Make) -> None:
    (home / "jobs").write_text("a file where a folder should be")
    with pytest.raises(DispatchError, match="PTYCHO_BLUESKY_HOME"):
        submit(make_spec())


def test_no_slots_is_refused(home: Path) -> None:
    with pytest.raises(DispatchError, match="slots is 0"):
        LocalExecutor(slots=0)
