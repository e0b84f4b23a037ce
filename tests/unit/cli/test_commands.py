"""Commands in this process: usage, one-line errors, small real runs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho_bluesky import __version__
from ptycho_bluesky.cli import app
from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.experiment import Geometry, fermat
from ptycho_bluesky.formats import read_reconstruction, save_dataset
from ptycho_bluesky.optics import siemens_star, simulate_dataset, zone_plate_probe

runner = CliRunner()
Home = Callable[[Path], Path]


@pytest.fixture
def measurement(tmp_path: Path, use_home: Home) -> Path:
    use_home(tmp_path / "home")
    geometry = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=150e-6)
    pixel = geometry.pixel_size_m(64)
    probe = zone_plate_probe(
        64, pixel, geometry.wavelength_m, diameter_m=120e-6, outermost_zone_m=60e-9, defocus_m=150e-6
    )
    dataset = simulate_dataset(siemens_star((200, 200)), probe, fermat(1e-6, 1e-6, 1.5e-7), geometry, 1e5)
    save_dataset(tmp_path / "scan.npz", dataset)
    return tmp_path / "scan.npz"


def one_json(*arguments: Any) -> dict[str, Any]:
    done = runner.invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).stdout == f"{__version__}\n"


@pytest.mark.parametrize("arguments", [["reconstruct"], ["reconstruct", "a.npz", "--epochs", "0"], ["fly"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


def test_a_failure_is_one_line_and_status_1(tmp_path: Path) -> None:
    environment = os.environ | {"PTYCHO_BLUESKY_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ptycho_bluesky.cli", "reconstruct", str(tmp_path / "none.npz"), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("ptycho-bluesky: ")
    assert done.stderr.count("\n") == 1


def test_reconstruct(measurement: Path, tmp_path: Path) -> None:
    output, picture = tmp_path / "out.h5", tmp_path / "out.png"
    result = one_json(
        "reconstruct", measurement, "-o", output, "--epochs", 3, "--modes", 2, "--picture", picture, "--engine", "fast"
    )
    keys = "engine device ranks epochs seconds seconds_per_epoch r_factor phase_contrast_rad object_shape pixel_size_m"
    assert result.keys() >= {*keys.split(), "output"}
    assert (result["epochs"], result["modes"], result["output"]) == (3, 2, str(output))
    assert read_reconstruction(output).r_factor == pytest.approx(result["r_factor"], rel=1e-5)
    assert picture.stat().st_size > 10_000


def test_reconstruct_of_what_cannot_be(measurement: Path, tmp_path: Path) -> None:
    with pytest.raises(PtychoError, match="engine"):
        runner.invoke(app, ["reconstruct", str(measurement), "--engine", "none"], catch_exceptions=False)
    np.savez(tmp_path / "short.npz", frames=np.ones((3, 16, 16)), positions=np.zeros((2, 2)), positions_unit="px")
    with pytest.raises(PtychoError, match="3 frames but 2 positions"):
        runner.invoke(app, ["reconstruct", str(tmp_path / "short.npz")], catch_exceptions=False)


def test_infer(measurement: Path, tmp_path: Path) -> None:
    result = one_json("infer", measurement, "-o", tmp_path / "m.npz", "--picture", tmp_path / "m.png")
    assert result.keys() >= {"frames", "frames_per_second", "backend", "latency_ms_p50", "latency_ms_p95", "output"}
    with np.load(tmp_path / "m.npz") as saved:
        assert np.isfinite(saved["phase"]).any()


def test_train_for_the_probe_of_a_file(measurement: Path, tmp_path: Path) -> None:
    model = tmp_path / "own.safetensors"
    trained = one_json("train", "--probe", measurement, "-o", model, "--steps", 2, "--batch", 4)
    assert trained["steps"] == 2
    assert one_json("infer", measurement, "-m", model, "-o", tmp_path / "m.npz")["model"].startswith("own")


def test_jobs_of_a_new_home(tmp_path: Path, use_home: Home) -> None:
    use_home(tmp_path)
    assert one_json("jobs", "list") == {"jobs": []}
    with pytest.raises(PtychoError, match="no job"):
        runner.invoke(app, ["jobs", "show", "abc"], catch_exceptions=False)


def test_a_file_that_cannot_be_written_is_refused_before_the_work(measurement: Path, tmp_path: Path) -> None:
    for verb in ("reconstruct", "infer"):
        with pytest.raises(PtychoError, match="cannot be written"):
            runner.invoke(app, [verb, str(measurement), "-o", str(tmp_path / "no" / "x")], catch_exceptions=False)


def test_a_probe_comes_from_a_reconstruction(measurement: Path, tmp_path: Path) -> None:
    one_json("reconstruct", measurement, "-o", tmp_path / "r.h5", "--epochs", 1, "--modes", 1)
    found = one_json("infer", measurement, "--probe", tmp_path / "r.h5", "-o", tmp_path / "m.npz")
    assert found["frames"] > 0
