"""Reconstructions on a real Slurm, by sbatch and in pilots, while consoles, nodes and the controller die."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from services import running
from slurm import Slurm, slurm
from waiting import until

from ptycho_bluesky.catalog import connect, find_reconstructions, stop_server
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import FileSource, JobSpec, Ledger, cancel, jobs, retry, status, stop, submit, wait
from ptycho_bluesky.dispatch.clusters._scheduler import SchedulerLauncher
from ptycho_bluesky.errors import DispatchError
from ptycho_bluesky.formats import read_reconstruction

pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(600)]

SETTINGS = """
[resources.both]
kind = "slurm"
partition = "test"
nodes = 2
[resources.one]
kind = "slurm"
ranks_per_node = 2
max_jobs = 1
walltime_s = 600
[resources.pilots]
kind = "slurm"
through = "parsl"
ranks_per_node = 2
warm_pilots = 1
walltime_s = 600
address = "127.0.0.1"
[resources.long]
kind = "slurm"
walltime_s = 90000
[resources.elsewhere]
kind = "slurm"
partition = "none"
"""


@pytest.fixture(scope="module")
def daemons() -> Iterator[Slurm]:
    with slurm(nodes=2, timeout_s=6) as found:
        yield found


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory, catalog_home: Path) -> Iterator[Path]:
    """One home for these tests, with a catalogue that is empty, and copied: making one takes 3 s."""
    folder = tmp_path_factory.mktemp("slurm-home")
    (folder / "tiled").mkdir()
    (folder / "tiled" / "catalog.db").write_bytes((catalog_home / "tiled" / "catalog.db").read_bytes())
    yield folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTYCHO_BLUESKY_HOME", str(folder))
        settings.cache_clear()
        stop_server()
    settings.cache_clear()


@pytest.fixture
def cluster(
    daemons: Slurm, own_home: Path, tmp_path: Path, use_home: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Slurm]:
    """Slurm, and the settings that describe it."""
    monkeypatch.setenv("SLURM_CONF", str(daemons.conf))
    (tmp_path / "settings.toml").write_text(SETTINGS)
    monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(tmp_path / "settings.toml"))
    use_home(own_home)
    SchedulerLauncher._answers.clear()
    connect().context.close()  # its server is there when the first job registers
    yield daemons
    for job in jobs():
        cancel(job.job_id, grace_s=0.0)
    until(lambda: not {"RUNNING", "COMPLETING", "PENDING"} & set(daemons.jobs().values()), 20, "Slurm's end of jobs")


def spec_of(files: Path, place: str, *, name: str, ranks: int = 2) -> JobSpec:
    source, options = FileSource(path=str(files / "scan.npz")), {"epochs": 100_000, "modes": 1}
    return JobSpec(source=source, raw_uid=name, engine="fast", options=options, place=place, ranks=ranks)


def at_work(job_id: str) -> None:
    until(lambda: bool(status(job_id).progress), 200, "an epoch")


def begun(job_id: str) -> None:
    until(lambda: status(job_id).state == "running", 120, "the runner's start")


def agree(job_id: str, raw_uid: str, state: str, results: int) -> None:
    """Folder, ledger and Tiled say the same."""
    ledger = Ledger()
    assert ledger.job(job_id).status().state == state
    assert [s.state for s in ledger.jobs() if s.job_id == job_id] == [state]
    client = connect()
    with client.context:
        assert [n.metadata["job_id"] for n in find_reconstructions(client, raw_uid)] == [job_id] * results


def test_on_two_nodes_while_the_console_and_the_controller_die(cluster: Slurm, known_files: Path) -> None:
    spec = spec_of(known_files, "both", name="two-nodes")
    code = "import sys, time; from ptycho_bluesky.dispatch import *; print(submit(JobSpec.parse(sys.argv[1]))); "
    code += "sys.stdout.flush(); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, spec.model_dump_json()], stdout=subprocess.PIPE) as console:
        assert console.stdout is not None
        assert console.stdout.readline().decode().strip() == spec.job_id
        console.kill()
    job = Ledger().job(spec.job_id)
    assert submit(spec) == spec.job_id and list(cluster.jobs()) == [str((job.runner() or {})["id"])]
    at_work(spec.job_id)
    cluster.kill_controller()
    SchedulerLauncher._answers.clear()
    begin = time.monotonic()
    assert status(spec.job_id).state == "running"  # by its signs of life
    assert time.monotonic() - begin < 6
    stop(spec.job_id)
    waiting = spec_of(known_files, "one", name="later")
    assert submit(waiting) == waiting.job_id
    asked = status(waiting.job_id)
    assert asked.state == "queued" and "does not answer; the job waits" in asked.reason
    cluster.start_controller()
    assert cancel(waiting.job_id).state == "cancelled"
    done = wait(spec.job_id, 200)
    assert (done.state, done.registered, done.stopped) == ("done", True, True), done
    agree(spec.job_id, "two-nodes", "done", 1)
    agree(waiting.job_id, "later", "cancelled", 0)
    provenance = read_reconstruction(job.result_file).provenance
    told = {key: provenance["job"][key] for key in ("place", "kind", "nodes", "ranks", "scheduler_job")}
    assert told == {"place": "both", "kind": "slurm", "nodes": "n[1-2]", "ranks": 2, "scheduler_job": "1"}
    assert provenance["ranks"] == 2


def test_a_lost_node_a_retry_on_another_and_a_cancelled_job(cluster: Slurm, known_files: Path) -> None:
    spec = spec_of(known_files, "one", name="lost")
    job_id, second = submit(spec), submit(spec_of(known_files, "one", name="second"))
    begun(job_id)
    job = Ledger().job(job_id)
    number = str((job.runner() or {})["id"])
    assert cluster.jobs()[str((Ledger().job(second).runner() or {})["id"])] == "PENDING"  # max_jobs is 1
    assert cancel(second).state == "cancelled"
    cluster.lose_node("n1")
    until(lambda: status(job_id).state == "lost", 60, "the loss")
    assert cluster.jobs()[number] == "NODE_FAIL" and "its node failed" in status(job_id).reason
    retry(job_id)
    at_work(job_id)
    begin = time.monotonic()
    assert cancel(job_id).state == "cancelled"
    assert time.monotonic() - begin < 5
    number = str((job.runner() or {})["id"])
    until(lambda: cluster.jobs()[number] == "CANCELLED", 5, "Slurm's word for it")
    agree(job_id, "lost", "cancelled", 0)
    cluster.start_node("n1")
    until(lambda: cluster.states() == ["idle"] * 2, 20, "both nodes")


@contextlib.contextmanager
def dispatcher_of(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A dispatcher, which owns the pilots; it is there when the block begins."""
    command = [sys.executable, "-m", "ptycho_bluesky.cli", "dispatcher", "--no-warm"]
    with running(command, home / "dispatcher.log") as process:
        until((home / "dispatcher.json").exists, 90, "the dispatcher")
        yield process


def test_pilots_whose_dispatcher_is_killed_and_started_again(cluster: Slurm, known_files: Path) -> None:
    pytest.importorskip("parsl", reason="pilots need ptycho-bluesky[parsl]")
    home = settings().home
    first = spec_of(known_files, "pilots", name="piloted")
    assert submit(first) == first.job_id
    assert "belong to the dispatcher" in status(first.job_id).reason  # and wait for it
    with dispatcher_of(home) as dispatcher:
        begun(first.job_id)
        second = submit(spec_of(known_files, "pilots", name="behind"))
        assert cancel(second).state == "cancelled"
        dispatcher.kill()
        dispatcher.wait()
        (home / "dispatcher.json").unlink(missing_ok=True)
    with dispatcher_of(home):
        until(lambda: status(first.job_id).attempt == 2, 120, "the second attempt")
        at_work(first.job_id)
        stop(first.job_id)
        done = wait(first.job_id, 200)
        assert (done.state, done.registered, done.attempt) == ("done", True, 2), done
        agree(first.job_id, "piloted", "done", 1)
        agree(second, "behind", "cancelled", 0)
        job = Ledger().job(first.job_id)
        provenance = read_reconstruction(job.result_file).provenance["job"]
        assert (provenance["kind"], provenance["ranks"], provenance["attempt"]) == ("parsl", 2, 2)
    until(lambda: "RUNNING" not in cluster.jobs().values(), 10, "the pilots' end")
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert [line for line in lines if str(home) in line and "tiled" not in line] == []


def test_what_slurm_refuses_or_would_never_start_fails_in_its_words(cluster: Slurm, known_files: Path) -> None:
    refused = spec_of(known_files, "elsewhere", name="refused", ranks=1)
    with pytest.raises(DispatchError, match="invalid partition"):
        submit(refused)
    job_id = submit(spec_of(known_files, "long", name="too-long", ranks=1))
    until(lambda: status(job_id).state == "failed", 10, "its failure")
    assert "never start it (PartitionTimeLimit); correct [resources.long]" in status(job_id).reason
    assert [s.state for s in Ledger().jobs() if s.job_id in (refused.job_id, job_id)] == ["failed", "failed"]
    with pytest.raises(DispatchError, match="3 ranks at 'one', which has 1 nodes of 2 ranks"):
        submit(spec_of(known_files, "one", name="too-many", ranks=3))
