"""A job that runs longer than it may: asked first, then killed by a watchdog that does not depend on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptycho_bluesky.dispatch import JobSpec, Ledger, _recipes, _watchdog, runner
from ptycho_bluesky.experiment import Reconstruction

Make = Callable[..., JobSpec]
PROGRAM = str(Path(_watchdog.__file__))

HANGS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-S", sys.argv[1], str(__import__("os").getpid()), *sys.argv[2:]])
time.sleep(600)
"""


def test_what_hangs_is_asked_then_killed_with_its_group(tmp_path: Path) -> None:
    stop, mark = tmp_path / "STOP", tmp_path / "OVERDUE"
    command = [sys.executable, "-S", "-c", HANGS, PROGRAM, "0.3", "0.3", str(stop), str(mark)]
    process = subprocess.Popen(command, start_new_session=True)
    assert process.wait(20) == -signal.SIGKILL
    assert stop.exists() and mark.read_text() == "0.3"


def test_it_ends_with_its_runner(tmp_path: Path) -> None:
    stop, mark = tmp_path / "STOP", tmp_path / "OVERDUE"
    begun = time.monotonic()
    _watchdog.main(os.getpid(), 600.0, 1.0, stop, mark)  # this process is not its own parent
    assert time.monotonic() - begun < 60 and not stop.exists() and not mark.exists()


def test_a_job_in_time_leaves_no_watchdog_and_one_that_listens_keeps_its_result(
    home: Path, make_spec: Make, make_result: Callable[..., Reconstruction], monkeypatch: pytest.MonkeyPatch
) -> None:
    def until_asked(spec: Any, should_stop: Callable[[], bool], *_: Any) -> Reconstruction:
        deadline = time.monotonic() + 60
        while not should_stop() and time.monotonic() < deadline:
            time.sleep(0.05)
        return make_result()

    monkeypatch.setitem(_recipes.FUNCTIONS, "reconstruct", lambda *_: make_result())
    quick, _ = Ledger().create(make_spec(limit_s=100.0))
    assert runner.main(quick.path, 1) == 0 and not quick.status().stopped
    monkeypatch.setitem(_recipes.FUNCTIONS, "reconstruct", until_asked)
    slow, _ = Ledger().create(make_spec(limit_s=0.2))
    assert runner.main(slow.path, 1) == 0
    assert slow.status().state == "done" and slow.status().stopped and slow.result_file.exists()


def test_a_killed_one_has_failed_for_a_reason_and_can_be_retried(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec(limit_s=5.0))
    ledger.record(job, "running")
    job.launched({"pid": 2**22 - 1})  # no such process
    job.overdue_file.write_text("5")
    status = ledger.status(job.job_id)
    assert (status.state, status.kind) == ("failed", "time") and "within its limit of 5 s" in status.reason
    assert make_spec(limit_s=5.0).job_id != make_spec().job_id == make_spec(limit_s=None).job_id
