"""Fixtures that several folders share: a home of their own for settings, and small results made by hand."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

os.environ.setdefault("OPHYD_CONTROL_LAYER", "dummy")

from ptycho_bluesky.config import settings
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction

QUICK = {"test_whole_way", "test_distributed"}
"""System tests that ``make test`` runs; the others, notebooks and browsers are for ``make test-services``."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs services: clusters, EPICS, databases, browsers, notebooks."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in ("browser", "notebooks") or (folder == "system" and item.path.stem not in QUICK):
            item.add_marker(pytest.mark.services)


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that name `folder`: what a test would leave behind."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.info["pid"] != os.getpid() and process.info["status"] != "zombie":
            found.append(line)
    return found


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Commands that run in the tests' process set the package's log; the next test finds it as it was."""
    logger = logging.getLogger("ptycho_bluesky")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture
def use_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Path]]:
    """Call with a folder: settings() then has it as home, until the test ends."""

    def use(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("PTYCHO_BLUESKY_HOME", str(folder))
        monkeypatch.delenv("PTYCHO_BLUESKY_TILED_URI", raising=False)
        settings.cache_clear()
        return folder

    yield use
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def make_result() -> Callable[..., Reconstruction]:
    """Return a function that makes a small, valid Reconstruction."""

    def make(seed: int = 0, size: int = 24, **changes: object) -> Reconstruction:
        rng = np.random.default_rng(seed)
        coverage = np.zeros((size, size), np.float32)
        coverage[4:-4, 4:-4] = 1
        values: dict[str, object] = {
            "object": np.exp(1j * rng.normal(0, 0.3, (1, size, size))).astype(np.complex64),
            "probe": rng.normal(size=(2, 8, 8, 2)).astype(np.float32).view(np.complex64)[..., 0],
            "positions": rng.uniform(0, 1e-6, (10, 2)),
            "coverage": coverage,
            "origin": (-1e-7, 2e-7),
            "pixel_size_m": 1e-8,
            "errors": np.array([0.5, 0.2, 0.1]),
            "r_factor": 0.09,
            "phase_contrast_rad": 1.2,
            "engine": "by-hand",
            "parameters": {"epochs": 3},
            "provenance": {"host": "here"},
        }
        return Reconstruction(**{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def catalog_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home with one embedded server for all tests: starting one takes 5 s."""
    from ptycho_bluesky.catalog import connect, stop_server  # Tiled: only for tests that need it

    home = tmp_path_factory.mktemp("catalog-home")
    before = os.environ.get("PTYCHO_BLUESKY_HOME")
    os.environ["PTYCHO_BLUESKY_HOME"] = str(home)
    settings.cache_clear()
    client = connect()
    client.context.close()
    yield home
    os.environ["PTYCHO_BLUESKY_HOME"] = str(home)
    settings.cache_clear()
    stop_server()
    del os.environ["PTYCHO_BLUESKY_HOME"]
    if before is not None:
        os.environ["PTYCHO_BLUESKY_HOME"] = before
    settings.cache_clear()


@pytest.fixture
def client(catalog_home: Path, use_home: Callable[[Path], Path]) -> Iterator[Any]:
    from ptycho_bluesky.catalog import connect

    use_home(catalog_home)
    client = connect()
    yield client
    client.context.close()


@pytest.fixture
def home(tmp_path: Path, use_home: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose Tiled is away; no process of it may be left at the end."""
    from ptycho_bluesky.dispatch import cancel, jobs

    folder = use_home(tmp_path / "home")
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_PATIENCE_S", "0.1")
    settings.cache_clear()
    yield folder
    for status in jobs() if (folder / "jobs").is_dir() else []:
        cancel(status.job_id, grace_s=0.0)
    assert processes_of(folder) == []


@pytest.fixture(scope="session")
def measurement(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file that can be reconstructed, in a fashion."""
    from ptycho_bluesky.formats import save_dataset

    rng = np.random.default_rng(0)
    positions = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2) * 4.0
    frames = rng.poisson(20 * np.exp(-np.hypot(*np.mgrid[-16:16, -16:16]) / 4), (64, 32, 32)).astype(np.uint16)
    path = tmp_path_factory.mktemp("data") / "measurement.npz"
    save_dataset(path, PtychoDataset(frames, positions))
    return path


@pytest.fixture
def make_spec(measurement: Path) -> Callable[..., Any]:
    """Return a function that makes a JobSpec of the small measurement."""
    from ptycho_bluesky.dispatch import FileSource, JobSpec

    def make(epochs: int = 2, **changes: Any) -> JobSpec:
        values: dict[str, Any] = {"source": FileSource(path=str(measurement)), "options": {"epochs": epochs}}
        return JobSpec(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def known_scan() -> tuple[PtychoDataset, Reconstruction]:
    """A simulated scan of 64 x 64 frames, and the truth as its reconstruction."""
    from ptycho_bluesky.experiment import Geometry, fermat
    from ptycho_bluesky.optics import disc_probe, random_specimen, simulate_dataset, truth_on_grid

    geometry = Geometry(energy_kev=8.0, distance_m=2.0, detector_pixel_m=300e-6)
    pixel = geometry.pixel_size_m(64)
    probe = disc_probe(64, pixel, diameter_m=18 * pixel)[None]
    obj = random_specimen((192, 192), np.random.default_rng(4))
    dataset = simulate_dataset(obj, probe, fermat(52 * pixel, 64 * pixel, 6 * pixel), geometry, 1e5, seed=1)
    grid = dataset.object_grid()
    assert dataset.probe is not None
    light, coverage = (np.abs(dataset.probe) ** 2).sum(axis=0), np.zeros(grid.shape, np.float32)
    for row, column in np.round(grid.corners).astype(int):
        coverage[row : row + 64, column : column + 64] += light
    result = Reconstruction(
        object=truth_on_grid(obj, grid, 64)[None],
        probe=dataset.probe,
        positions=dataset.positions,
        coverage=coverage / coverage.max(),
        origin=grid.origin,
        pixel_size_m=pixel,
        errors=np.zeros(0),
        r_factor=0.0,
        phase_contrast_rad=1.0,
        engine="truth",
    )
    return dataset, result


@pytest.fixture(scope="session")
def known_files(known_scan: tuple[PtychoDataset, Reconstruction], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``scan.npz`` and ``result.h5`` of that scan."""
    from ptycho_bluesky.formats import save_dataset, write_reconstruction

    folder = tmp_path_factory.mktemp("known")
    save_dataset(folder / "scan.npz", known_scan[0])
    write_reconstruction(folder / "result.h5", known_scan[1])
    return folder
