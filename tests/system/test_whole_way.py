"""The whole way, as a visitor runs it: the command line in a process of its own, a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ptycho_bluesky.catalog import stop_server
from ptycho_bluesky.config import settings

SUMMARY = {"run_uid", "frames", "frames_inferred", "frames_dropped", "job_id", "state", "r_factor", "tiled_uri"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    yield folder
    before = os.environ.get("PTYCHO_BLUESKY_HOME")
    os.environ["PTYCHO_BLUESKY_HOME"] = str(folder)
    settings.cache_clear()
    try:
        stop_server()
    finally:
        os.environ.pop("PTYCHO_BLUESKY_HOME")
        if before is not None:
            os.environ["PTYCHO_BLUESKY_HOME"] = before
        settings.cache_clear()


@pytest.fixture
def command(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    kept = {key: value for key, value in os.environ.items() if key != "PTYCHO_BLUESKY_TILED_URI"}

    def run(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ptycho_bluesky.cli", *map(str, arguments)],
            env=kept | {"PTYCHO_BLUESKY_HOME": str(home), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def _json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.timeout(400)
@pytest.mark.xdist_group("whole-way")
def test_demo(command: Callable[..., Any], tmp_path: Path) -> None:
    result = _json(command("demo", "--output", tmp_path, "--json"))
    assert result.keys() >= SUMMARY
    assert result["frames"] == result["frames_inferred"] >= 400
    assert result["frames_dropped"] == result["frames_refused"] == 0
    assert result["state"] == "done"
    assert result["correlation_reconstruction"] >= 0.97
    assert result["correlation_live"] >= 0.80
    for path in result["pictures"]:
        with Image.open(path) as picture:
            assert min(picture.size) > 300

    jobs = _json(command("jobs", "list", "--json"))["jobs"]
    assert [(job["job_id"], job["state"]) for job in jobs] == [(result["job_id"], "done")]
    shown = _json(command("jobs", "show", result["job_id"][:8], "--json"))
    assert shown["raw_uid"] == result["run_uid"]

    again = _json(
        command(
            "reconstruct", result["run_uid"], "-o", tmp_path / "again.h5", "--epochs", "2", "--modes", "1", "--json"
        )
    )
    assert again["frames"] == result["frames"]
    assert again["pixel_size_m"] > 0


@pytest.mark.data
@pytest.mark.timeout(400)
@pytest.mark.xdist_group("whole-way")
@pytest.mark.skipif(settings().data is None, reason="no measured data: PTYCHO_BLUESKY_DATA is not set")
def test_replay_of_the_measured_star(command: Callable[..., Any], tmp_path: Path) -> None:
    data = settings().data
    assert data is not None
    result = _json(command("replay", data / "siemens_star_small.npz.bz2", "-o", tmp_path, "--modes", "1", "--json"))
    assert result.keys() >= SUMMARY
    assert result["frames"] == result["frames_inferred"] == 516
    assert result["r_factor"] <= 0.152


@pytest.mark.data
@pytest.mark.timeout(200)
@pytest.mark.skipif(settings().data is None, reason="no measured data: PTYCHO_BLUESKY_DATA is not set")
def test_near_field_star_from_a_cxi_file(command: Callable[..., Any], tmp_path: Path) -> None:
    data = settings().data
    assert data is not None
    file, out = data / "petra3_p25_near_field.cxi", tmp_path / "p25.h5"
    result = _json(command("reconstruct", file, "-o", out, "--focus-to-sample-m", "3.65e-3", "--json"))
    assert result["pixel_size_m"] == pytest.approx(178.66e-9, rel=1e-3)
    assert result["r_factor"] < 0.08
    assert out.is_file()
