"""From a reconstruction to a model in the registry by itself, in real processes, one of them killed on its way."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from ptycho_bluesky.catalog import ModelLibrary, find_models
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import FileSource, FollowUp, JobSpec, Ledger, retry, status, submit, wait

TINY = {"steps": 2, "batch": 16, "shard": 16, "validation_frames": 16, "validate_every": 1}


@pytest.mark.timeout(300)
def test_the_first_reconstruction_trains_a_model_and_a_killed_training_registers_it_once(
    client: Any, home: Path, known_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_PATIENCE_S", "6")  # so long is a result there and not yet registered
    settings.cache_clear()
    spec = JobSpec(
        source=FileSource(path=str(known_files / "scan.npz")),
        engine="fast",
        options={"epochs": 5},
        then=FollowUp(cold_start=True, training=TINY),
    )
    first = wait(submit(spec), 100)
    assert first.state == "done" and first.follow_up, first
    job = Ledger().job(first.follow_up)
    until(job.result_file.exists, 100)
    pid = job.runner_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: status(job.job_id).state == "lost", 5)
    written = job.result_file.stat().st_mtime_ns
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", str(client.context.api_uri))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", client.context.api_key)
    settings.cache_clear()
    retry(job.job_id)
    done = wait(job.job_id, 100)
    assert done.state == "done" and done.registered is True, done
    assert job.result_file.stat().st_mtime_ns == written  # nothing was trained twice
    (record,) = [r for r in ModelLibrary().records() if r.job_id == job.job_id]
    assert record.name == "cold-start" and len(record.gate) == 1
    nodes = [n for n in find_models(client) if n.metadata["job_id"] == job.job_id]
    assert [n.item["id"] for n in nodes] == [record.content_hash]
    until(lambda: job.runner_pid() is None)
