"""``train``: which ways of training a command line asks for, and which it cannot have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import ptycho_bluesky.inference
from ptycho_bluesky.cli._app import app
from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.formats import write_reconstruction
from ptycho_bluesky.inference import ProbeViT, ProbeViTModel, ProbeViTSizes, TrainingState

runner = CliRunner()


def run(*words: object) -> str:
    return runner.invoke(app, ["train", *map(str, words)], catch_exceptions=False).stdout


@pytest.fixture
def result(tmp_path: Path, make_result: Callable[..., Reconstruction]) -> Path:
    path = tmp_path / "result.h5"
    write_reconstruction(path, make_result())
    return path


def test_cold_start_hands_over_result_time_and_start(tmp_path: Path, result: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    asked: dict[str, Any] = {}

    def instead(output: Path, rec: Reconstruction, dataset: object, **options: Any) -> ProbeViTModel:
        asked.update(options, modes=len(rec.probe), dataset=dataset)
        state = TrainingState(step=3, steps=3)
        for curve in state.curves.values():
            curve.append(0.5)
        options["on_state"](state)
        sizes = ProbeViTSizes(size=16, width=16, depth=1, heads=2, features=2, hidden=8, iterations=1)
        return ProbeViTModel("mine", ProbeViT(sizes), "", {"steps": 3})

    monkeypatch.setattr(ptycho_bluesky.inference, "cold_start", instead)
    said = run("--cold-start", result, "-o", tmp_path / "m.safetensors", "--max-seconds", 77, "--json")
    assert '"steps": 3' in said
    assert asked["seconds"] == 77
    assert asked["start_from"] == "default"
    assert asked["modes"] == 2
    assert asked["dataset"] is None


def test_what_does_not_go_together_is_refused(tmp_path: Path, result: Path) -> None:
    np.savez(tmp_path / "a.npz", frames=np.ones((3, 8, 8)), positions=np.zeros((3, 2)), positions_unit="px")
    scan, out = tmp_path / "a.npz", tmp_path / "m.safetensors"
    with pytest.raises(InferenceError, match="not --probe"):
        run("--cold-start", result, "--probe", result, "-o", out)
    with pytest.raises(InferenceError, match="1 --data and 0 --reconstruction"):
        run("--data", scan, "-o", out)
    with pytest.raises(InferenceError, match="1 --data and 2 --reconstruction"):
        run("--data", scan, "--reconstruction", result, "--reconstruction", result, "-o", out)
    with pytest.raises(InferenceError, match="there are edge, jetson, gpu"):
        run("--size", "huge", "-o", out)
    assert not out.exists()
