"""A job whose reconstruction is shared by ranks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from waiting import until

from ptycho_bluesky.dispatch import FileSource, JobSpec, Ledger, retry, status, stop, submit, wait
from ptycho_bluesky.dispatch._energy import EnergyMeter
from ptycho_bluesky.errors import DispatchError
from ptycho_bluesky.formats import read_reconstruction

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.timeout(180)]


def ranks_of(home: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(home) in line and "distributed" in line and process.info["status"] != "zombie":
            found.append(process.pid)
    return found


def test_a_killed_runner_leaves_no_rank_and_a_retry_goes_on(home: Path, known_files: Path) -> None:
    source = FileSource(path=str(known_files / "scan.npz"))
    job_id = submit(JobSpec(source=source, engine="fast", ranks=2, options={"epochs": 100_000, "modes": 1}))
    job = Ledger().job(job_id)
    until(lambda: bool(status(job_id).progress))
    pid = job.runner_pid()
    assert pid is not None
    assert len(ranks_of(home)) >= 2
    os.kill(pid, signal.SIGKILL)
    until(lambda: ranks_of(home) == [], 5)
    assert status(job_id).state == "lost"
    retry(job_id)
    until(lambda: bool(status(job_id).progress))
    stop(job_id)
    assert wait(job_id, 60).state == "done"
    provenance = read_reconstruction(job.result_file).provenance
    assert provenance["ranks"] == 2
    assert {k: provenance["job"][k] for k in ("place", "kind", "scheduler_job", "ranks", "attempt", "energy_j")} == {
        "place": "local", "kind": "local", "scheduler_job": None, "ranks": 2, "attempt": 2, "energy_j": None,
    }  # fmt: skip
    assert 0 <= provenance["job"]["queue_s"] < 60 and 0 < provenance["job"]["run_s"] < 60
    assert not (job.path / "ranks").exists()
    until(lambda: job.runner_pid() is None)


def test_what_ranks_cannot_do_is_refused_at_once(tmp_path: Path) -> None:
    source = {"kind": "file", "path": str(tmp_path / "scan.h5")}
    for wrong, said in (
        ({"engine": "epie"}, "2 ranks are for a reconstruction by fast or lsqml"),
        ({"recipe": "train"}, "2 ranks are for a reconstruction"),
        ({"device": "cuda:1"}, "ranks take a GPU each"),
    ):
        with pytest.raises(ValueError, match=said):
            JobSpec.model_validate({"source": source, "ranks": 2, **wrong})


def test_place_is_no_part_of_a_jobs_identity_and_one_rank_is_as_before(tmp_path: Path) -> None:
    source = FileSource(path=str(tmp_path / "scan.h5"))
    spec = JobSpec(source=source)
    assert JobSpec(source=source, place="cluster", ranks=1).job_id == spec.job_id
    assert JobSpec(source=source, ranks=2).job_id != spec.job_id
    assert JobSpec(source=source, place="cluster").resource == "cluster"


def test_a_place_that_the_settings_do_not_know_is_named(home: Path, make_spec: Callable[..., JobSpec]) -> None:
    with pytest.raises(DispatchError, match=r"no resource is named 'moon'; known are local"):
        submit(make_spec(place="moon"))


def test_energy_is_what_the_counters_of_the_visible_gpus_grew_by(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failure(Exception):
        pass

    counters = {0: [1_000_000, 9_000_000], 1: [500_000, 512_345]}
    driver = SimpleNamespace(
        NVMLError=Failure,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counters[handle].pop(0),
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    meter = EnergyMeter()
    meter.stop()
    assert meter.joules() == pytest.approx(12.345)
