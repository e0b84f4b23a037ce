"""There and back through Globus: real SDKs and a real endpoint engine, with a cloud of this process's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import globus_cloud as globus
import pytest
import torch
from typer.testing import CliRunner
from waiting import until

from ptycho_bluesky import __version__
from ptycho_bluesky.catalog import ModelLibrary, find_models, find_reconstructions, in_service, promote
from ptycho_bluesky.cli._app import app
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import (
    FileSource,
    JobFolder,
    JobSpec,
    JobStatus,
    Ledger,
    cancel,
    retry,
    status,
    submit,
)
from ptycho_bluesky.dispatch.globus.courier import Courier
from ptycho_bluesky.dispatch.models import add_model, model_in_service
from ptycho_bluesky.dispatch.runner import main
from ptycho_bluesky.formats import read_reconstruction
from ptycho_bluesky.inference import ProbeViTModel, load_model

pytestmark = [pytest.mark.xdist_group("globus"), pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Facility:
    url: str
    here: Path
    home: Path

    def fails(self, **faults: Any) -> Any:
        return globus.control(self.url, **faults)

    def works(self) -> None:
        self.fails(**globus.FAULTS)


PATIENT = """
import time
from types import SimpleNamespace

def patient(spec, should_stop, on_state, folder):
    for epoch in range(1, spec.options["epochs"] + 1):
        if should_stop():
            return None
        on_state(SimpleNamespace(epoch=epoch, epochs=spec.options["epochs"], r_factor=0.5, seconds=0.1 * epoch))
        time.sleep(0.1)
    from ptycho_bluesky.formats import read_reconstruction

    return read_reconstruction(spec.options["result"])
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed package that registers a recipe which computes nothing, for as long as it is told."""
    folder = tmp_path_factory.mktemp("site-packages")
    (folder / "patient.py").write_text(PATIENT)
    about = folder / "patient-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: patient\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[ptycho_bluesky.recipes]\npatient = patient:patient\n")
    return folder


@pytest.fixture(scope="module")
def facility_process(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Iterator[Facility]:
    """The cloud, and a facility whose home is another one than ours."""
    root = tmp_path_factory.mktemp("globus")
    here, there = root / "here", root / "there"
    here.mkdir()
    there.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PTYCHO_BLUESKY_")}
    kept |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
    environment = {**kept, "PTYCHO_BLUESKY_HOME": str(there), "PTYCHO_BLUESKY_CONFIG": str(root / "facility.toml")}
    # Its jobs may read its own home alone: as if no file of ours were seen there.
    nowhere = root / "nowhere"
    (root / "facility.toml").write_text(f'threads = 1\n[resources.local]\nkind = "local"\npaths = ["{nowhere}"]\n')
    command = [sys.executable, str(Path(globus.__file__)), str(here), str(there)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Facility(process.stdout.readline().strip(), here, there)
        process.kill()


@pytest.fixture
def facility(
    facility_process: Facility, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Facility]:
    """The same, working, named ``facility`` in our settings; its collection shows our home."""
    facility_process.works()
    if facility_process.here.is_symlink():
        facility_process.here.unlink()
    elif facility_process.here.exists():
        facility_process.here.rmdir()
    facility_process.here.symlink_to(home)
    (tmp_path / "settings.toml").write_text(RESOURCE)
    monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(tmp_path / "settings.toml"))
    for name, value in globus.environment(facility_process.url).items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield facility_process


RESOURCE = f"""
threads = 1

[resources.facility]
kind = "globus"
endpoint = "{globus.ENDPOINT}"
collection = "{globus.THERE}"
collection_path = "/"
here_collection = "{globus.HERE}"
here_path = "/"
poll_s = 1.2
"""


@pytest.fixture
def unseen(measurement: Path) -> Callable[..., JobSpec]:
    """Jobs for the facility, which does not see their file."""

    def make(epochs: int = 3, **changes: Any) -> JobSpec:
        values = {"source": FileSource(path=str(measurement)), "options": {"epochs": epochs}, "place": "facility"}
        return JobSpec(**{**values, **changes})

    return make


def steps(job: JobFolder) -> str:
    return "\n".join(event["step"] for event in job.history() if "step" in event)


def there(facility: Facility, job: JobFolder) -> JobFolder:
    return JobFolder(facility.home / "jobs" / job.job_id)


def take(job: JobFolder) -> JobStatus:
    """Be the courier of a job in this process, and return how it ended."""
    if job.status().state != "queued":
        for flag in (job.cancel_file, job.stop_file):
            flag.unlink(missing_ok=True)
        job.record("queued", attempt=job.status().attempt + 1)
    main(job.path, 1, Courier)
    return job.status()


def reach(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", str(client.context.api_uri))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", client.context.api_key)
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_PATIENCE_S", "10")
    settings.cache_clear()


def test_a_dead_courier_is_replaced_and_the_job_is_called_back(
    facility: Facility, unseen: Callable[..., JobSpec], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.syspath_prepend(str(package))
    job = Ledger().job(submit(unseen(100_000, recipe="patient")))
    away = there(facility, job)
    until(lambda: job.status().progress.get("epoch", 0) > 0, 100)
    assert job.status().progress["state_there"] == "running"
    pid = job.runner_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: status(job.job_id).state == "lost", 10)
    assert away.status().state == "running"
    seen = job.status().progress["epoch"]
    assert retry(job.job_id).attempt == 2
    until(lambda: job.status().progress.get("epoch", 0) > seen, 100)
    assert away.status().attempt == 1  # nothing was begun again there
    assert cancel(job.job_id).state == "cancelled"
    until(lambda: away.status().state == "cancelled", 15)
    assert "the facility was asked to cancel" in steps(job)
    until(lambda: away.runner_pid() is None and job.runner_pid() is None, 10)
    words = (job.path / "log.txt").read_text() + json.dumps(job.history()) + job.spec_file.read_text()
    assert "s3cret" not in words and "token-" not in words


def test_trained_there_deployed_here(
    client: Any,
    facility: Facility,
    known_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reach(client, monkeypatch)
    library, default = ModelLibrary(), load_model()
    assert isinstance(default, ProbeViTModel)
    model_in_service(library)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in default.network.parameters():
            weight += 0.6 * weight.std(unbiased=False) * torch.randn(weight.shape, generator=generator)
    default.save(tmp_path / "bad.safetensors")
    bad = add_model(tmp_path / "bad.safetensors", library)
    promote(library, bad.content_hash, force="a test")  # the facility's own is a better one
    tiny = {"steps": 2, "batch": 16, "shard": 16, "validation_frames": 16, "validate_every": 1, "learning_rate": 1e-5}
    order = {"name": "from there", "data": "both", "promote": True, "training": {**tiny, "simulated_share": 0.5}}
    order["reconstruction"] = str(known_files / "result.h5")
    source = FileSource(path=str(known_files / "scan.npz"))
    job, _ = Ledger().create(JobSpec(recipe="train", source=source, options=order, place="facility"))

    facility.fails(transfer={"nice_status": "NO_SPACE", "nice_status_details": "disk quota of project ptycho"})
    failed = take(job)
    assert (failed.state, failed.kind) == ("failed", "disk"), failed
    assert "transfer out" in failed.reason and "disk quota of project ptycho" in failed.reason
    facility.works()
    packed = (job.path / "out" / "data.nxs").stat().st_mtime_ns
    done = take(job)
    assert done.state == "done" and done.registered is True, (done, job.log_tail())
    assert (job.path / "out" / "data.nxs").stat().st_mtime_ns == packed  # not packed again
    assert done.progress["promoted"] is True
    serving = in_service(library)
    assert serving is not None and serving.name == "from there" and serving.job_id == job.job_id
    assert [verdict.against for verdict in serving.gate] == [bad.content_hash]  # tried against the one in service here
    assert serving.probe_from == str(known_files / "scan.npz")
    nodes = [n for n in find_models(client) if n.metadata["job_id"] == job.job_id]
    assert [n.item["id"] for n in nodes] == [serving.content_hash]
    assert not (facility.home / "models" / f"{serving.stem}.safetensors").exists()


def test_by_the_flow_in_the_cloud_and_again_from_where_it_broke(
    client: Any,
    facility: Facility,
    unseen: Callable[..., JobSpec],
    known_files: Path,
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reach(client, monkeypatch)
    monkeypatch.syspath_prepend(str(package))
    deployed = CliRunner().invoke(app, ["globus", "flow", "deploy", "facility", "--json"])
    assert deployed.exit_code == 0, deployed.output
    flow = json.loads(deployed.stdout)["flow"]
    (tmp_path / "settings.toml").write_text(f'{RESOURCE}flow = "{flow}"\n')
    settings.cache_clear()
    options = {"epochs": 2, "result": str(known_files / "result.h5")}
    job, _ = Ledger().create(unseen(recipe="patient", options=options, raw_uid="run-of-the-flow"))
    facility.fails(break_action="TransferBack")
    failed = take(job)
    assert failed.state == "failed" and "flow failed at TransferBack: " in failed.reason, failed
    assert "TransferBack was broken" in failed.reason
    facility.works()
    done = take(job)
    assert done.state == "done" and done.registered is True, (done, job.log_tail())
    assert there(facility, job).status().attempt == 1  # computed once
    (node,) = find_reconstructions(client, "run-of-the-flow")
    assert node.metadata["job_id"] == job.job_id
    told = read_reconstruction(job.result_file).provenance
    assert (told["job_id"], told["raw_uid"]) == (job.job_id, "run-of-the-flow")
    assert told["source"]["path"] == unseen().source.path  # type: ignore[union-attr]
    assert (told["job"]["place"], told["job"]["kind"]) == ("facility", "globus")
    assert told["job"]["facility"]["version"] == __version__ and told["job"]["scheduler_job"]
    assert "flow: done at" in steps(job) and "at the facility" in steps(job)
