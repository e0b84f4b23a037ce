from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import FileSource, JobSpec, cancel, jobs
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.formats import save_dataset


def left_behind(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.info["status"] != "zombie":
            found.append(line)
    return found


@pytest.fixture
def home(tmp_path: Path, use_home: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose Tiled is away; no process of it may be left at the end."""
    folder = use_home(tmp_path / "home")
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_PATIENCE_S", "0.1")
    settings.cache_clear()
    yield folder
    for status in jobs() if (folder / "jobs").is_dir() else []:
        cancel(status.job_id, grace_s=0.0)
    assert left_behind(folder) == []


@pytest.fixture(scope="session")
def measurement(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file that can be reconstructed, in a fashion."""
    rng = np.random.default_rng(0)
    positions = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2) * 4.0
    frames = rng.poisson(20 * np.exp(-np.hypot(*np.mgrid[-16:16, -16:16]) / 4), (64, 32, 32)).astype(np.uint16)
    path = tmp_path_factory.mktemp("data") / "measurement.npz"
    save_dataset(path, PtychoDataset(frames, positions))
    return path


@pytest.fixture
def make_spec(measurement: Path) -> Callable[..., JobSpec]:
    def make(epochs: int = 2, **changes: Any) -> JobSpec:
        values: dict[str, Any] = {"source": FileSource(path=str(measurement)), "options": {"epochs": epochs}}
        return JobSpec(**{**values, **changes})

    return make
