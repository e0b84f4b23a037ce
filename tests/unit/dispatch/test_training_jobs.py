"""Trainings as jobs: trained, tried against the model in service, entered and registered once, whatever dies when."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ptycho_bluesky.catalog import (
    GateVerdict,
    ModelLibrary,
    find_models,
    in_service,
    promote,
    rollback,
    service_history,
)
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import (
    FileSource,
    JobFolder,
    JobSpec,
    Ledger,
    ReconstructionSource,
    _entry,
    _recipes,
    register_pending,
    runner,
)
from ptycho_bluesky.dispatch.models import add_model, fetch_model, model_in_service, model_record, try_model
from ptycho_bluesky.errors import CatalogError, FormatError, InferenceError
from ptycho_bluesky.inference import ProbeViT, ProbeViTModel, ProbeViTSizes, load_model

PROBE = np.ones((1, 8, 8), np.complex64)

TINY = {"steps": 2, "batch": 16, "shard": 16, "validation_frames": 16, "validate_every": 1}


@pytest.fixture(autouse=True)
def one_thread():  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_training(known_files: Path) -> Callable[..., JobSpec]:
    """Return a function that makes the specification of a training of seconds."""

    def make(seed: int = 0, training: dict[str, Any] | None = None, **options: Any) -> JobSpec:
        whole = {
            "training": {**TINY, "seed": seed, **(training or {})},
            "reconstruction": str(known_files / "result.h5"),
        }
        return JobSpec(
            recipe="train", source=FileSource(path=str(known_files / "scan.npz")), options={**whole, **options}
        )

    return make


def run(spec: JobSpec) -> JobFolder:
    job, _ = Ledger().create(spec)
    runner.main(job.path, 1)
    return job


def reach(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runners find the tests' catalogue from a home of their own."""
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", str(client.context.api_uri))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", client.context.api_key)
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_PATIENCE_S", "10")
    settings.cache_clear()


def worse(model: ProbeViTModel, path: Path) -> Path:
    """A model file with noise on the weights."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.network.parameters():
            if weight.numel() > 1:
                weight += 0.6 * weight.std() * torch.randn(weight.shape, generator=generator)
    model.save(path)
    return path


def test_a_cold_start_ends_in_the_library_with_its_verdict_and_waits_for_tiled(
    client: Any, home: Path, make_training: Callable[..., JobSpec]
) -> None:
    job = run(make_training(name="first light", licence="CC0-1.0"))
    status, library = job.status(), ModelLibrary()
    assert (status.state, status.registered) == ("done", False), status
    record = library.find("first light")
    assert record.content_hash == load_model(library.path(record)).content_hash == status.progress["content_hash"]
    assert (record.data, record.job_id, record.licence, record.raw_uids) == ("simulated", job.job_id, "CC0-1.0", ())
    assert record.probe_from.endswith("scan.npz") and library.probe(record) is not None
    assert record.versions["ptycho-bluesky"] and record.notes["steps"] == 2 and "curves" not in record.notes
    (verdict,) = record.gate
    assert not verdict.passed and verdict.against_name.startswith("default") and verdict.frames > 64
    assert (status.progress["step"], status.progress["gate"], status.progress["promoted"]) == (2, "not passed", False)
    assert status.progress["seconds_left"] == 0 and not (job.path / "checkpoint.pt").exists()
    serving = in_service(library)
    assert serving is not None and serving.name == "default"
    assert register_pending(client) == [job.job_id] and register_pending(client) == []
    nodes = [n for n in find_models(client, passed=False) if n.item["id"] == record.content_hash]
    assert len(nodes) == 1 and nodes[0].metadata["job_id"] == job.job_id


def test_a_better_model_goes_into_service_by_itself_and_a_roll_back_undoes_it(
    home: Path, tmp_path: Path, make_training: Callable[..., JobSpec]
) -> None:
    library, default = ModelLibrary(), load_model()
    assert isinstance(default, ProbeViTModel)
    model_in_service(library)
    bad = add_model(worse(default, tmp_path / "bad.safetensors"), library)
    promote(library, bad.content_hash, force="a test")
    # The default's weights, all but unchanged, on measured frames and simulated ones.
    still = {"learning_rate": 1e-5, "simulated_share": 0.5}
    job = run(make_training(name="tuned", data="both", start_from="default", promote=True, training=still))
    assert job.status().progress["promoted"] is True, library.find("tuned").gate
    serving = in_service(library)
    assert serving is not None and serving.name == "tuned" and serving.gate[0].against == bad.content_hash
    assert len(serving.raw_uids) == 1 and serving.start_from == library.find("default").content_hash
    last = service_history(library)[-1]
    assert (last.event, last.forced) == ("promoted", False) and job.job_id in last.why
    assert load_model("in-service").content_hash == serving.content_hash
    assert rollback(library).content_hash == bad.content_hash
    assert load_model("in-service").content_hash == bad.content_hash


def test_a_training_that_ends_at_known_weights_adds_its_verdict_to_them(
    home: Path, tmp_path: Path, make_training: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    library, default = ModelLibrary(), load_model()
    assert isinstance(default, ProbeViTModel)
    own = model_in_service(library)[1]
    bad = add_model(worse(default, tmp_path / "bad.safetensors"), library)
    promote(library, bad.content_hash, force="a test")
    figures = {"phase_correlation": 0.9}
    better = GateVerdict(
        passed=True,
        against=bad.content_hash,
        reasons=("better",),
        candidate=figures,
        in_service=figures,
        frames=16,
        when=1,
    )

    def recipe(spec: JobSpec, should_stop: Any, on_state: Any, folder: Path) -> Path:
        path = folder / "trained.safetensors"
        path.write_bytes(library.path(own).read_bytes())
        record = model_record(path, name="unmoved", probe=PROBE, gate=(better,))
        np.save(folder / _entry.PROBE, PROBE)
        (folder / _entry.RECORD).write_text(record.model_dump_json())
        return path

    monkeypatch.setitem(_recipes.FUNCTIONS, "train", recipe)
    status = run(make_training(promote=True)).status()
    assert status.progress["model"] == own.stem and status.progress["promoted"] is True
    assert library.find(own.content_hash).gate == (better,) and len(library.records()) == 2
    serving = in_service(library)
    assert serving is not None and serving.content_hash == own.content_hash


class Killed(BaseException):
    """Stands for ``kill -9``: nothing of ours catches it."""


STEPS = ["library", "create", "weights", "complete", "done"]


@pytest.mark.parametrize("step", STEPS)
def test_a_runner_killed_at_any_step_of_the_registration_registers_once(
    client: Any, home: Path, make_training: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from tiled.client.container import Container

    reach(client, monkeypatch)
    spec = make_training(seed=1 + STEPS.index(step), name=f"killed at {step}")
    trained = ready_model(spec)
    monkeypatch.setitem(_recipes.FUNCTIONS, "train", trained)
    places: dict[str, tuple[Any, str, Callable[..., bool]]] = {
        "library": (ModelLibrary, "add", lambda *a, **k: True),
        "create": (Container, "create_container", lambda *a, **k: len(a[1]) == 64),
        "weights": (Container, "write_array", lambda *a, **k: k["key"] == "weights"),
        "complete": (Container, "update_metadata", lambda *a, **k: True),
        "done": (Ledger, "record", lambda *a, **k: a[2] == "done"),
    }
    owner, name, here = places[step]
    real = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if here(*args, **kwargs):
            raise Killed
        return real(*args, **kwargs)

    job, ledger = JobFolder(Ledger().folder / spec.job_id), Ledger()
    ledger.create(spec)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, dying)
        with pytest.raises(Killed):
            runner.main(job.path, 1)
    ledger.record(job, "lost")
    ledger.record(job, "queued", attempt=2)
    assert runner.main(job.path, 1) == 0
    assert job.status().state == "done" and job.status().registered is True
    assert trained.calls == 1  # nothing was trained twice
    (record,) = [r for r in ModelLibrary().records() if r.job_id == job.job_id]
    nodes = [n for n in find_models(client) if n.metadata["job_id"] == job.job_id]
    assert [n.item["id"] for n in nodes] == [record.content_hash] and record.registered
    assert nodes[0].data() == job.result_file.read_bytes()


def ready_model(spec: JobSpec) -> Any:
    """A recipe that has its model at once: one whose weights are this job's own."""

    def recipe(spec: JobSpec, should_stop: Any, on_state: Any, folder: Path) -> Path:
        recipe.calls += 1  # type: ignore[attr-defined]
        sizes = ProbeViTSizes(size=32, width=16, depth=1, heads=2, features=2, hidden=8, iterations=2)
        with torch.random.fork_rng():
            torch.manual_seed(int(spec.job_id[:6], 16) + os.getpid())
            model = ProbeViTModel("", ProbeViT(sizes).eval(), "", {})
        path = folder / "trained.safetensors"
        model.save(path)
        np.save(folder / _entry.PROBE, PROBE)
        record = model_record(path, name=str(spec.options["name"]), probe=PROBE, job_id=spec.job_id)
        (folder / _entry.RECORD).write_text(record.model_dump_json())
        return path

    recipe.calls = 0  # type: ignore[attr-defined]
    return recipe


def test_a_training_that_is_retried_goes_on_from_its_checkpoint_and_the_same_start(
    home: Path, make_training: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_training(name="resumed", start_from="in-service", training={"steps": 3})
    job, ledger = JobFolder(Ledger().folder / spec.job_id), Ledger()
    ledger.create(spec)
    real = runner._Runner.on_state

    def dying(self: Any, state: Any) -> None:
        real(self, state)
        if state.step == 2:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(runner._Runner, "on_state", dying)
        with pytest.raises(Killed):
            runner.main(job.path, 1)
    assert (job.path / "checkpoint.pt").exists() and (job.path / "start.safetensors").exists()
    ledger.record(job, "lost")
    ledger.record(job, "queued", attempt=2)
    steps: list[int] = []
    monkeypatch.setattr(runner._Runner, "on_state", lambda self, state: steps.append(state.step))
    assert runner.main(job.path, 1) == 0
    assert steps == [3] and ModelLibrary().find("resumed").start_from == load_model().content_hash


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "../x"}, "options.name"),
        ({"colour": "red"}, "options.colour"),
        ({"data": "dreams"}, "options.data"),
        ({"held_out": 1.0}, "options.held_out"),
    ],
)
def test_an_order_that_makes_no_training_is_refused_when_it_is_submitted(
    make_training: Callable[..., JobSpec], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        make_training(**options)


def test_what_a_training_lacks_is_said_in_words(
    home: Path, make_training: Callable[..., JobSpec], make_spec: Callable[..., JobSpec], known_files: Path
) -> None:
    def failed(spec: JobSpec) -> str:
        status = run(spec).status()
        assert (status.state, status.kind) == ("failed", "user"), status
        return str(status.reason)

    assert "steps: Input should be" in failed(make_training(training={"steps": 0}))
    alone = make_training(data="both").model_copy(update={"source": FileSource(path=str(known_files / "result.h5"))})
    assert "gives no frames" in failed(alone)
    assert "gives no reconstruction" in failed(make_training(data="both", reconstruction=None))
    assert "no model 'nobody'" in failed(make_training(start_from="nobody"))
    without, _ = Ledger().create(make_spec())
    Ledger().record(without, "failed")
    source = ReconstructionSource(job_id=without.job_id)
    failed_so = run(JobSpec(recipe="train", source=source, options={"training": TINY})).status()
    assert failed_so.state == "failed" and "is failed and has no result" in failed_so.reason


def test_nothing_in_a_model_file_can_run(
    client: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "trapped"),)

    library = ModelLibrary()
    torch.save(Trap(), tmp_path / "trap.pth")
    torch.save({"encoder.0.weight": Trap()}, tmp_path / "dict.pth")
    (tmp_path / "named.safetensors").write_bytes((tmp_path / "trap.pth").read_bytes())
    for name in ("trap.pth", "dict.pth", "named.safetensors"):
        with pytest.raises(FormatError):
            add_model(tmp_path / name, library)
    assert library.records() == [] and not (tmp_path / "trapped").exists()


def test_a_model_of_the_catalogue_whose_weights_are_others_is_not_used(
    client: Any, home: Path, tmp_path: Path, known_files: Path
) -> None:
    from ptycho_bluesky.catalog import register_model

    here, there = ModelLibrary(), ModelLibrary(tmp_path / "there")
    record = add_model(Path(load_model.__code__.co_filename).parent / "weights" / "default.safetensors", here)
    forged = record.model_copy(update={"content_hash": f"{os.getpid():064x}", "name": "forged"})
    here.add(here.path(record).read_bytes(), forged)
    register_model(client, here, forged.content_hash)
    with pytest.raises(FormatError, match="it is not used"):
        fetch_model(client, there, forged.content_hash)
    assert there.records() == [] and not list(there.folder.glob("*.safetensors"))
    with pytest.raises(CatalogError, match="no model"):
        fetch_model(client, there, "nowhere")


def test_a_trial_by_hand_needs_frames_that_the_model_has_not_seen(
    home: Path, tmp_path: Path, known_scan: Any, make_training: Callable[..., JobSpec]
) -> None:
    library, (dataset, result) = ModelLibrary(), known_scan
    serving, current = model_in_service(library)
    assert isinstance(serving, ProbeViTModel)
    with pytest.raises(InferenceError, match="in service itself"):
        try_model(library, current, dataset, result)
    path = worse(serving, tmp_path / "worse.safetensors")
    record = add_model(path, library, raw_uids=(dataset.name,))
    with pytest.raises(InferenceError, match="was trained on simulated"):
        try_model(library, record, dataset, result)
    verdict = try_model(library, record, dataset, result, np.arange(60))
    assert not verdict.passed and library.find(record.content_hash).gate == (verdict,)
