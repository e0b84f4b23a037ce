"""The doctor's look at a resource: what it makes of what a job there found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptycho_bluesky.cli import _doctor_resource as module
from ptycho_bluesky.cli._doctor_resource import examine_resource
from ptycho_bluesky.dispatch import FileSource, JobSpec, JobStatus
from ptycho_bluesky.dispatch._check_recipe import check_place, versions
from ptycho_bluesky.errors import DispatchError


def found(**changes: Any) -> dict[str, Any]:
    made = {"seconds_per_epoch": 0.01, "epochs": 20, "ranks": 1, "device": "cpu", "seconds": 1.0, "r_factor": 0.2}
    there = {"host": "node7", "threads": 8, "cpus": 64, "gpus": [], "versions": versions(), "reconstruction": made}
    return {**there, **changes}


def examined(
    monkeypatch: pytest.MonkeyPatch, *, state: Any = "done", waited: float = 1.0, **changes: Any
) -> dict[str, tuple[str, str]]:
    def run(spec: JobSpec) -> tuple[JobStatus, dict[str, Any], float, str]:
        assert Path(spec.source.path).exists()  # type: ignore[union-attr]
        status = JobStatus("1", state, 0.0, 0.0, reason="its queue is closed")
        return status, found(**changes), waited, f"waited {waited} s"

    monkeypatch.setattr(module, "_run", run)
    return {finding.what: (finding.level, finding.text) for finding in examine_resource("local")}


def test_all_is_well(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = examined(monkeypatch)
    assert {what: level for what, (level, _) in told.items()} == {
        "no-op": "OK", "software": "OK", "GPU": "OK", "reconstruction": "OK",
    }  # fmt: skip
    assert (
        "on node7, 8 threads of 64 cores" in told["no-op"][1] and "10.0 ms each, R 0.200" in told["reconstruction"][1]
    )
    assert list((home / "doctor").iterdir()) == []


def test_other_versions_a_long_queue_and_a_failed_job_are_told_with_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level, text = examined(monkeypatch, versions={**versions(), "numpy": "1.0"})["software"]
    assert level == "WARN" and "numpy 1.0 (here" in text
    level, text = examined(monkeypatch, versions={**versions(), "ptycho-bluesky": "0.0.1"})["software"]
    assert level == "FAIL" and "install the same ptycho-bluesky there" in text
    level, text = examined(monkeypatch, waited=100.0)["no-op"]
    assert level == "WARN" and "through = 'parsl'" in text
    assert examined(monkeypatch, state="failed") == {"no-op": ("FAIL", "failed: its queue is closed")}


def test_a_place_that_refuses_or_does_not_exist_fails_in_words(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(spec: JobSpec) -> None:
        raise DispatchError("'local': no such partition")

    monkeypatch.setattr(module, "_run", refuse)
    (finding,) = examine_resource("local")
    assert (finding.level, finding.text) == ("FAIL", "'local': no such partition")
    (finding,) = examine_resource("moon")
    assert finding.level == "FAIL" and "known are local: add [resources.moon]" in finding.text


def test_the_recipe_that_looks_around_reconstructs_when_asked(home: Path, known_files: Path, tmp_path: Path) -> None:
    source = FileSource(path=str(known_files / "scan.npz"))

    def check(**options: Any) -> dict[str, Any]:
        spec = JobSpec(recipe="check", source=source, engine="fast", options=options)
        path = check_place(spec, lambda: False, lambda state: None, tmp_path)
        assert path is not None
        told: dict[str, Any] = json.loads(path.read_text())
        return told

    alone = check()
    assert alone["versions"] == versions() and alone["threads"] >= 1 and "reconstruction" not in alone
    made = check(reconstruct=True, epochs=2, threads=1)["reconstruction"]
    assert (made["epochs"], made["ranks"], made["device"]) == (2, 1, "cpu") and 0 < made["r_factor"] < 1
