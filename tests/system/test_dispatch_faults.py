"""The whole way from the RunEngine to a result in Tiled, while consoles, runners and servers die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import until

from ptycho_bluesky.catalog import connect, find_reconstructions, stop_server
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import Ledger, cancel, jobs, status, submit, wait

CONSOLE = """
import sys, time
from bluesky import RunEngine
from ptycho_bluesky.callbacks import DispatchOnStop
from ptycho_bluesky.catalog import connect, tiled_writer
from ptycho_bluesky.devices import simulated_beamline
from ptycho_bluesky.plans import ptycho_scan

beamline = simulated_beamline(frame_size=64, field_m=(1.5e-6, 1.5e-6), speedup=1e4, exposure_s=1e-4)
RE = RunEngine({})
RE.subscribe(tiled_writer(connect(), stop_wait_s=STOP_WAIT))
dispatch = DispatchOnStop(options={"epochs": EPOCHS}, max_seconds=MAX_SECONDS)
RE.subscribe(dispatch)
DURING
stage, detector, pattern = beamline.stage, beamline.detector, beamline.pattern
(uid,) = RE(ptycho_scan([detector], stage.y, stage.x, pattern, metadata=beamline.metadata))
print(uid, *dispatch.job_ids, flush=True)
assert not dispatch.failures, dispatch.failures
AFTER
"""


def console(
    home: Path,
    *,
    epochs: int = 5,
    max_seconds: float | None = None,
    during: str = "",
    after: str = "",
    wait_s: float = 10,
) -> subprocess.Popen[str]:
    code = CONSOLE.replace("EPOCHS", str(epochs)).replace("MAX_SECONDS", str(max_seconds))
    code = code.replace("STOP_WAIT", str(wait_s)).replace("DURING", during).replace("AFTER", after)
    kept = {k: v for k, v in os.environ.items() if k != "PTYCHO_BLUESKY_TILED_URI"}
    environment = {**kept, "PTYCHO_BLUESKY_HOME": str(home), "OPHYD_CONTROL_LAYER": "dummy", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def own_home(tmp_path: Path, catalog_home: Path, use_home: Callable[[Path], Path]) -> Iterator[Path]:
    """A home whose catalogue is empty, and copied: making one takes 3 s."""
    folder = use_home(tmp_path / "own-home")
    (folder / "tiled").mkdir()
    (folder / "tiled" / "catalog.db").write_bytes((catalog_home / "tiled" / "catalog.db").read_bytes())
    yield folder
    for job in jobs():
        cancel(job.job_id, grace_s=0.0)
    stop_server()
    until(lambda: not processes(folder), 5)


def processes(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.info["status"] != "zombie":
            found.append(line)
    return found


def registered_once(uid: str, job_id: str) -> None:
    client = connect()
    with client.context:
        (node,) = find_reconstructions(client, uid)
        assert node.metadata["job_id"] == job_id
        assert node.metadata["provenance"]["raw_uid"] == uid
        assert node.phase.ndim == 2


def test_a_console_killed_while_its_scan_is_reconstructed_still_gets_its_result(own_home: Path) -> None:
    with console(own_home, epochs=100_000, max_seconds=3.0, after="time.sleep(600)") as victim:
        assert victim.stdout is not None
        uid, job_id = victim.stdout.readline().split()
        until(lambda: bool(status(job_id).progress), 20)
        victim.kill()
    done = wait(job_id, 30)
    assert done.state == "done" and done.registered is True
    registered_once(uid, job_id)


def test_a_tiled_server_that_dies_in_mid_scan_costs_neither_the_scan_nor_its_reconstruction(own_home: Path) -> None:
    # Whoever kills the server at the 10th event also keeps it from being found again until the scan is over.
    during = """
import json, os, signal
from ptycho_bluesky.config import settings
def kill(name, doc):
    if doc["seq_num"] == 10:
        os.kill(json.loads((settings().home / "tiled" / "server.json").read_text())["pid"], signal.SIGKILL)
RE.subscribe(kill, "event")
"""
    with console(own_home, during=during, wait_s=0.5) as scan:
        assert scan.stdout is not None
        uid, job_id = scan.stdout.read().split()
        assert scan.wait(30) == 0
    done = wait(job_id, 60)
    assert done.state == "done" and done.registered is True, done
    registered_once(uid, job_id)
    assert list((own_home / "tiled" / "backups").glob("*.msgpack")) == []


def test_two_consoles_that_submit_the_same_at_once_make_one_job(
    home: Path, make_spec: Callable[..., Any], measurement: Path
) -> None:
    spec = make_spec()
    code = "import sys; from ptycho_bluesky.dispatch import *; print(submit(JobSpec.parse(sys.argv[1])))"
    command = [sys.executable, "-c", code, spec.model_dump_json()]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {p.communicate(timeout=30)[0].strip() for p in both} == {spec.job_id}
    assert wait(spec.job_id, 30).state == "done"
    states = [json.loads(line)["state"] for line in Ledger().job(spec.job_id).status_file.read_text().splitlines()]
    assert states.count("queued") == 1 and states.count("done") == 1
    until(lambda: Ledger().job(spec.job_id).runner_pid() is None, 20)


def test_a_runner_killed_between_result_and_registration_registers_once_when_tried_again(
    own_home: Path, make_spec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_PATIENCE_S", "60")
    settings.cache_clear()
    job_id = submit(make_spec(raw_uid="run-of-another-time"))
    job = Ledger().job(job_id)
    until(job.result_file.exists, 20)
    pid = job.runner_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: status(job_id).state == "lost", 5)
    monkeypatch.delenv("PTYCHO_BLUESKY_TILED_URI")
    settings.cache_clear()
    from ptycho_bluesky.dispatch import retry

    written = job.result_file.stat().st_mtime_ns
    retry(job_id)
    assert wait(job_id, 60).registered is True
    assert job.result_file.stat().st_mtime_ns == written  # nothing was computed twice
    client = connect()
    with client.context:
        assert [n.metadata["job_id"] for n in find_reconstructions(client, "run-of-another-time")] == [job_id]


def test_a_run_that_never_arrives_fails_in_words(own_home: Path) -> None:
    from ptycho_bluesky.dispatch import JobSpec, TiledSource

    job_id = submit(JobSpec(source=TiledSource(uid="0123456789", wait_s=0.5)))
    failed = wait(job_id, 60)
    assert (failed.state, failed.kind) == ("failed", "catalog")
    assert "run 0123456789 is not in Tiled" in failed.reason and "tiled_writer" in failed.reason
