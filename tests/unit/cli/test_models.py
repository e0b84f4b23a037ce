"""``models`` on the command line: from a file into service and back, with everything told as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ptycho_bluesky import dispatch
from ptycho_bluesky.catalog import GateVerdict, ModelLibrary
from ptycho_bluesky.cli import app
from ptycho_bluesky.dispatch import Ledger, ReconstructionSource
from ptycho_bluesky.errors import DispatchError, FormatError, InferenceError
from ptycho_bluesky.inference import ProbeViT, ProbeViTModel, ProbeViTSizes

runner = CliRunner()


def one_json(*arguments: Any, status: int = 0) -> dict[str, Any]:
    done = runner.invoke(app, ["models", *map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == status, done.output
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def model_file(client: Any, tmp_path: Path) -> Path:
    """A small model of random weights, new each time; the tests' catalogue is at hand."""
    with torch.random.fork_rng():
        torch.manual_seed(np.random.default_rng().integers(2**31))
        sizes = ProbeViTSizes(size=32, width=16, depth=1, heads=2, features=2, hidden=8, iterations=2)
        ProbeViTModel("", ProbeViT(sizes).eval(), "", {"steps": 1}).save(tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.fixture(autouse=True)
def no_model_is_left(client: Any) -> Any:
    yield
    for file in ModelLibrary().folder.iterdir():
        file.unlink()


def test_from_a_file_into_service_and_back(model_file: Path, tmp_path: Path, known_files: Path) -> None:
    added = one_json("add", model_file, "--licence", "CC0-1.0", "--probe", known_files / "result.h5")
    key = added["content_hash"]
    assert (added["name"], added["licence"], added["registered"], added["passed"]) == ("small", "CC0-1.0", True, None)
    assert added["probe_hash"] and one_json("add", model_file)["created"] == added["created"]
    with pytest.raises(InferenceError, match="has not passed the gate"):
        one_json("promote", "small")
    promoted = one_json("promote", key[:8], "--force", "a test")
    assert (promoted["forced"], promoted["why"], promoted["changed"]) == (True, "forced: a test", True)
    assert one_json("promote", "small", "--force", "again")["changed"] is False
    listed = one_json("list")
    assert listed["in_service"] == key
    assert {m["name"]: m["in_service"] for m in listed["models"]} == {"small": True, "default": False}
    shown = one_json("show", "small")
    assert [e["event"] for e in shown["service"]] == ["promoted"] and shown["in_service"] is True
    pointer = json.loads((ModelLibrary().folder / "in-service.json").read_text())
    assert pointer["model"] == shown["path"] and pointer["content_hash"] == key
    back = one_json("rollback", "--why", "it was only a test")
    assert (back["name"], back["event"], back["why"]) == ("default", "rolled-back", "it was only a test")
    events = one_json("history")["history"]
    assert [e["event"] for e in events] == ["installed", "promoted", "rolled-back"]
    with pytest.raises(InferenceError, match="nothing to go back to"):
        one_json("rollback")
    tables = [runner.invoke(app, ["models", verb]).stdout for verb in ("list", "history")]
    assert "small" in tables[0] and "rolled-back" in tables[1].replace("\n", "")


def test_what_another_machine_has_registered_is_listed_fetched_and_downloaded(
    model_file: Path, client: Any, tmp_path: Path
) -> None:
    key = one_json("add", model_file, "--name", "from afar")["content_hash"]
    library = ModelLibrary()
    library.remove(library.find(key))
    assert one_json("list")["models"] == []
    (listed,) = [m for m in one_json("list", "--tiled")["models"] if m["content_hash"] == key]
    assert listed["here"] is False
    (tmp_path / "to").mkdir()
    written = one_json("download", key[:10], "-o", tmp_path / "to")
    assert Path(written["output"]).read_bytes() == model_file.read_bytes()
    assert one_json("fetch", key)["path"] == str(library.path(library.find(key)))
    with pytest.raises(FormatError, match="folder that exists"):
        one_json("download", key, "-o", tmp_path / "nowhere")


def test_a_trial_by_hand_says_why_and_its_exit_status_is_the_verdict(
    model_file: Path, known_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ptycho_bluesky.dispatch.models as models

    key = one_json("add", model_file)["content_hash"]
    figures = {"phase_correlation": 0.5}
    for passed in (False, True):
        verdict = GateVerdict(
            passed=passed,
            against="0" * 64,
            reasons=("phase correlation 0.5",),
            candidate=figures,
            in_service=figures,
            frames=16,
            when=float(passed),
        )
        seen: list[int] = []

        def tried(library: Any, record: Any, dataset: Any, result: Any, said: Any = verdict, n: Any = seen) -> Any:
            n.append(len(dataset))
            library.judge(record.content_hash, said)
            return said

        monkeypatch.setattr(models, "try_model", tried)
        told = one_json("trial", key, known_files / "scan.npz", known_files / "result.h5", status=0 if passed else 1)
        assert told["reasons"] == ["phase correlation 0.5"] and seen == [93]
    assert one_json("show", key)["gate"][-1]["passed"] is True


def test_a_training_is_submitted_as_a_job(
    known_files: Path, monkeypatch: pytest.MonkeyPatch, home: Path, make_spec: Callable[..., Any]
) -> None:
    submitted: list[Any] = []
    monkeypatch.setattr(dispatch, "submit", lambda spec: submitted.append(spec) or spec.job_id)
    told = one_json(
        "train", known_files / "scan.npz", "--reconstruction", known_files / "result.h5", "--data", "both",
        "--start-from", "in-service", "--promote", "--set", "steps=5", "--set", "device=cpu", "--max-seconds", "60",
    )  # fmt: skip
    spec = submitted[-1]
    assert told["job_id"] == spec.job_id and spec.recipe == "train" and spec.max_seconds == 60
    assert spec.options["training"] == {"steps": 5, "device": "cpu"} and spec.options["promote"] is True
    job, _ = Ledger().create(make_spec(raw_uid="the-run"))
    one_json("train", job.job_id[:8], "--start-from", "none", "--seconds", "60", "--size", "jetson")
    spec = submitted[-1]
    assert spec.source == ReconstructionSource(job_id=job.job_id) and spec.raw_uid == "the-run"
    assert spec.options["start_from"] is None
    assert (spec.options["seconds"], spec.options["size"]) == (60, "jetson")
    uid = "a216335d-320c-4101-bed6-4afe1b222547"
    one_json("train", uid)
    assert submitted[-1].raw_uid == uid
    with pytest.raises(DispatchError, match=r"'none.h5' is no file, no job of this home .* full uid of a run"):
        one_json("train", "none.h5")
    with pytest.raises(FormatError, match="KEY=VALUE"):
        one_json("train", uid, "--set", "steps")
    with pytest.raises(DispatchError, match="name"):
        one_json("train", uid, "--name", "../x")


def test_what_is_no_model_is_refused(client: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is no file"):
        one_json("add", tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04nonsense" * 10)
    with pytest.raises(FormatError, match="is not a model file"):
        one_json("add", tmp_path / "bad.safetensors")
