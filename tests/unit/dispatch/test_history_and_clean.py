"""Who did what with a job, and what of old jobs is deleted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptycho_bluesky._who import whoami
from ptycho_bluesky.cli import app
from ptycho_bluesky.dispatch import (
    JobFolder,
    JobSpec,
    Ledger,
    LocalExecutor,
    ReconstructionSource,
    clean,
    history,
)

Make = Callable[..., JobSpec]


def test_a_history_tells_changes_and_wishes_with_their_authors_but_no_progress(home: Path, make_spec: Make) -> None:
    ledger = Ledger()
    job, _ = ledger.create(make_spec())
    ledger.record(job, "running")
    for epoch in range(3):
        ledger.record(job, "running", progress={"epoch": epoch})
    (job.path / "runner.json").write_text(json.dumps({"pid": os.getpid(), "host": "elsewhere"}))
    job.beat()
    LocalExecutor().stop(job.job_id)
    ledger.record(job, "done", registered=False, reason="the result waits")
    events = history(job.job_id[:8])
    assert [e["state"] for e in events] == ["queued", "running", "running", "done"]
    assert events[2]["asked"] == "stop and keep the result" and events[3]["reason"] == "the result waits"
    assert {e["by"] for e in events} == {whoami()} and {e["pid"] for e in events} == {os.getpid()}
    assert [e["t"] for e in events] == sorted(e["t"] for e in events)
    shown = CliRunner().invoke(app, ["jobs", "history", job.job_id, "--json"])
    assert json.loads(shown.stdout)["history"] == events
    assert "asked" in CliRunner().invoke(app, ["jobs", "history", job.job_id]).stdout


@pytest.fixture
def old_job(home: Path, make_spec: Make) -> Callable[..., JobFolder]:
    """Return a function that makes a job which ended 40 days ago."""

    def make(run: str, state: str = "done", registered: bool | None = True) -> JobFolder:
        ledger = Ledger()
        job, _ = ledger.create(make_spec(raw_uid=run))
        for name in ("result.h5", "partial.npz", "log.txt"):
            (job.path / name).write_bytes(b"x" * 100)
        entry = {"t": time.time() - 40 * 86400, "state": state, "registered": registered}
        with job.status_file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        ledger.rebuild()
        return job

    return make


def test_old_results_go_when_they_are_in_tiled_and_histories_stay(
    home: Path, old_job: Callable[..., JobFolder], make_spec: Make
) -> None:
    done, failed = old_job("a"), old_job("b", "failed", None)
    waiting, needed = old_job("c", registered=False), old_job("d")
    young, _ = Ledger().create(make_spec(raw_uid="e"))
    Ledger().record(young, "failed")
    training = JobSpec(recipe="train", source=ReconstructionSource(job_id=needed.job_id))
    alive, _ = Ledger().create(training)
    (alive.path / "runner.json").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    alive.beat()
    told = clean(dry_run=True)
    assert {c.job_id for c in told} == {done.job_id, failed.job_id} and done.result_file.exists()
    shown = CliRunner().invoke(app, ["jobs", "clean", "--older-than-days", "30", "--json"])
    assert json.loads(shown.stdout)["bytes"] == sum(c.bytes for c in told) == 400
    for job in (done, failed):
        assert not job.result_file.exists() and not job.partial_file.exists()
        assert job.log_file.exists() and job.history() and job.spec()
    assert waiting.result_file.exists() and needed.result_file.exists()
    assert clean() == []
    assert Ledger().create(make_spec(raw_uid="a"))[1] is False  # submitted again it is the same job
    assert {s.job_id for s in Ledger().jobs("done")} == {done.job_id, waiting.job_id, needed.job_id}
    assert clean(older_than_days=50) == []
