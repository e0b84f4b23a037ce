"""Slurm's commands and its words for what became of a job; that they are Slurm's is shown by the system's tests."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ptycho_bluesky._resources import ClusterResource
from ptycho_bluesky.dispatch import JobFolder, JobSpec, Ledger
from ptycho_bluesky.dispatch.clusters import SchedulerLauncher, SlurmLauncher
from ptycho_bluesky.dispatch.clusters import _slurm as module
from ptycho_bluesky.dispatch.clusters._scheduler import YOUNG_S, command
from ptycho_bluesky.errors import FacilityError

Make = Callable[..., JobSpec]


@pytest.fixture
def job(home: Path, make_spec: Make) -> JobFolder:
    return Ledger().create(make_spec(engine="fast", ranks=4, device="cuda", priority=-3))[0]


def launcher(**changes: object) -> SlurmLauncher:
    SchedulerLauncher._answers.clear()
    return SlurmLauncher("hpc", ClusterResource.model_validate({"kind": "slurm", **changes}))


def test_what_a_job_takes_becomes_arguments_and_no_word_of_the_user_reaches_a_shell(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, ...]] = []

    def answer(*words: str, place: str) -> str:
        said.append(words)
        return "" if words[0] == "squeue" else "17;hpc\n"

    monkeypatch.setattr(module, "command", answer)
    wanted = {
        "nodes": 2,
        "ranks_per_node": 2,
        "cpus_per_rank": 8,
        "gpus_per_rank": 1,
        "partition": "gpu",
        "account": "x1",
    }
    runner = launcher(**wanted, walltime_s=601, python="/opt/a b/python", home="/there").launch(job)
    assert runner == {"kind": "slurm", "place": "hpc", "id": "17"}
    words = said[-1]
    for word in (
        f"--comment={job.job_id}", "--no-requeue", "--time=11", "--nodes=2", "--ntasks-per-node=1",
        "--cpus-per-task=16", "--gres=gpu:2", "--partition=gpu", "--account=x1", "--nice=300",
        f"--output=/there/jobs/{job.job_id}/log.txt",
    ):  # fmt: skip
        assert word in words
    script = (job.path / "job.sh").read_text().splitlines()
    assert script[1:3] == ["export PTYCHO_BLUESKY_HOME=/there", "export PTYCHO_BLUESKY_THREADS=16"]
    folder = f"/there/jobs/{job.job_id}"
    assert (
        script[3] == f"exec '/opt/a b/python' -m ptycho_bluesky.dispatch.runner {folder} 0 541 >>{folder}/log.txt 2>&1"
    )


def test_a_job_that_slurm_has_already_is_found_and_not_submitted_again(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f"5|COMPLETED|{job.job_id}|None\n6|PENDING|{job.job_id}|Priority\n7|RUNNING|(null)|None\n"
    monkeypatch.setattr(module, "command", lambda *words, place: {"squeue": lines}[words[0]])
    assert launcher(ranks_per_node=4).launch(job)["id"] == "6"


@pytest.mark.parametrize(
    ("state", "ends_as", "kind", "words"),
    [
        ("TIMEOUT", "failed", "time", r"walltime_s of \[resources.hpc\] \(3600 s\)"),
        ("OUT_OF_MEMORY", "failed", "memory", "more memory than it was given"),
        ("NODE_FAIL", "lost", "machine", "its node failed"),
        ("PREEMPTED", "lost", "machine", "gave its place to another job"),
        ("CANCELLED", "failed", "machine", "somebody cancelled it at Slurm"),
        (
            "FAILED",
            "failed",
            "machine",
            r"did not start .*FAILED NonZeroExitCode; sh: no python.*doctor --resource hpc",
        ),
    ],
)
def test_each_end_has_its_plain_words(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, state: str, ends_as: str, kind: str, words: str
) -> None:
    job.log_file.write_text("sh: no python\n")
    reason = "NonZeroExitCode" if state == "FAILED" else "None"
    monkeypatch.setattr(module, "command", lambda *w, place: f"9|{state}|{job.job_id}|{reason}\n")
    found = launcher()
    assert found.alive(job, {"id": "9", "t": 0.0}) is False
    ending = found.ending(job, {"id": "9"})
    assert ending is not None and (ending.state, ending.kind) == (ends_as, kind)
    assert re.search(words, ending.reason)


def test_a_scheduler_out_of_reach_leaves_the_word_to_the_signs_of_life(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*words: str, place: str) -> str:
        raise FacilityError("away")

    monkeypatch.setattr(module, "command", away)
    found = launcher()
    assert found.alive(job, {"id": "9"}) is True  # it has not begun, as far as one knows
    job.beat()
    assert found.alive(job, {"id": "9"}) is None


def test_what_slurm_has_forgotten_is_alive_so_long_as_it_gives_signs_of_life(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "command", lambda *words, place: "")
    found = launcher()
    assert found.alive(job, {"id": "9", "t": time.time()}) is True  # submitted a moment ago
    old = {"id": "9", "t": time.time() - 2 * YOUNG_S}
    assert found.alive(job, old) is False
    job.beat()
    assert found.alive(job, old) is True


def test_commands_that_are_missing_refuse_or_do_not_answer(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("ptycho_bluesky.dispatch.clusters._scheduler.ASK_S", 0.2)
    for name, script, kind, words in (
        ("gone", None, "user", "gone is not installed here"),
        ("slow", "exec sleep 20", "machine", "does not answer: slow waited"),
        ("down", "echo 'error: Unable to contact slurm controller' >&2; exit 1", "machine", "Unable to contact"),
        ("strict", "echo 'invalid account' >&2; exit 1", "user", "'hpc': strict says: invalid account"),
    ):
        if script is not None:
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        with pytest.raises(FacilityError, match=words) as raised:
            command(name, place="hpc")
        assert raised.value.kind == kind
