"""``ptycho-bluesky report`` in this process, on a small simulated measurement."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho_bluesky.cli import app
from ptycho_bluesky.errors import DatasetError, FormatError, PtychoError, ReconstructionError
from ptycho_bluesky.experiment import Geometry, fermat
from ptycho_bluesky.formats import load_dataset, read_reconstruction, save_dataset, write_reconstruction
from ptycho_bluesky.optics import siemens_star, simulate_dataset, zone_plate_probe
from ptycho_bluesky.reconstruction import reconstruct

runner = CliRunner()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("report")
    geometry = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=150e-6)
    pixel = geometry.pixel_size_m(64)
    probe = zone_plate_probe(
        64, pixel, geometry.wavelength_m, diameter_m=120e-6, outermost_zone_m=60e-9, defocus_m=150e-6
    )
    dataset = simulate_dataset(siemens_star((200, 200)), probe, fermat(1e-6, 1e-6, 1.5e-7), geometry, 1e5)
    save_dataset(folder / "scan.npz", dataset)
    result = reconstruct(load_dataset(folder / "scan.npz"), "fast", {"modes": 1, "epochs": 4, "threads": 1})
    write_reconstruction(folder / "result.h5", result)
    return folder / "scan.npz", folder / "result.h5"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    use_home(tmp_path / "home")


def report(*arguments: Any) -> dict[str, Any]:
    done = runner.invoke(app, ["report", *map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(*arguments: Any, kind: type[PtychoError], text: str) -> None:
    with pytest.raises(kind, match=text):
        runner.invoke(app, ["report", *map(str, arguments)], catch_exceptions=False)


def test_a_result_by_itself(files: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = report(files[1], "-o", page)
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert found.keys() >= {"verdict", "good", "r_factor", "phase_contrast_rad", "findings", "output"}
    assert found["r_factor"] == pytest.approx(read_reconstruction(files[1]).r_factor)
    assert "r_noise" not in found


def test_with_data_halves_and_ensemble(files: tuple[Path, Path], tmp_path: Path) -> None:
    scan, result = files
    kept, picture = tmp_path / "kept.h5", tmp_path / "page.png"
    found = report(result, "--data", scan, "--ensemble", 2, "--keep", kept, "-o", picture)
    assert {"r_noise", "resolution_half_bit_m", "phase_uncertainty_rad", "photons_per_frame"} <= found.keys()
    assert picture.stat().st_size > 50_000
    sigma = read_reconstruction(kept).uncertainty
    assert sigma is not None
    assert np.nanmedian(sigma) == pytest.approx(found["phase_uncertainty_rad"], rel=1e-5)
    halves = report(result, "--data", scan, "--halves", "-o", picture)
    assert halves["resolution_half_bit_m"] == found["resolution_half_bit_m"]
    assert "phase_uncertainty_rad" not in halves


def test_against_another_result(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = report(files[1], "--against", files[1], "-o", tmp_path / "page.html")
    assert found["resolution_half_bit_m"] == read_reconstruction(files[1]).pixel_size_m


def test_what_cannot_be_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    scan, result = files
    page = ("-o", tmp_path / "page.html")
    refused(tmp_path / "none.h5", *page, kind=FormatError, text="does not exist")
    refused(scan, *page, kind=FormatError, text="scan.npz")
    refused(result, "-o", tmp_path / "page.pdf", kind=FormatError, text="allowed are .html and .png")
    refused(result, "-o", tmp_path / "no" / "page.html", kind=FormatError, text="cannot be written")
    refused(result, "--halves", *page, kind=FormatError, text="give the measurement with --data")
    refused(result, "--keep", tmp_path / "a.h5", *page, kind=FormatError, text="--ensemble makes")
    both = ("--data", scan, "--halves", "--against", result)
    refused(result, *both, *page, kind=FormatError, text="leave one out")
    rec = read_reconstruction(result)
    write_reconstruction(tmp_path / "other.h5", replace(rec, pixel_size_m=2 * rec.pixel_size_m))
    refused(result, "--against", tmp_path / "other.h5", *page, kind=ReconstructionError, text="pixel sizes are")
    assert not (tmp_path / "page.html").exists()


def test_too_few_frames_for_halves(files: tuple[Path, Path], tmp_path: Path) -> None:
    few = load_dataset(files[0]).subset(slice(20))
    save_dataset(tmp_path / "few.npz", few)
    rec = read_reconstruction(files[1])
    write_reconstruction(tmp_path / "few.h5", replace(rec, positions=rec.positions[:20]))
    arguments = (tmp_path / "few.h5", "--data", tmp_path / "few.npz", "--halves", "-o", tmp_path / "page.html")
    refused(*arguments, kind=DatasetError, text="20 frames; half data sets need at least 32")


def test_a_page_stands_by_itself_on_either_ground(files: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    report(files[1], "-o", page)
    text = page.read_text("utf-8")
    assert not re.search(r"https?://|<script|<link", text)
    light, dark = text.count('src="data:image/png'), text.count('srcset="data:image/png')
    assert light == dark >= 6
    assert "prefers-color-scheme: dark" in text


def test_a_job_and_its_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    from ptycho_bluesky.dispatch import FileSource, JobSpec, Ledger

    ledger = Ledger()
    spec = JobSpec(source=FileSource(path=str(files[0])), engine="fast")
    job, _ = ledger.create(spec)
    page = tmp_path / "page.html"
    refused(job.job_id, "-o", page, kind=FormatError, text="is queued.*no result to report on")
    job.record("running")
    shutil.copy(files[1], job.result_file)
    job.record("done")
    found = report(job.job_id[:6], "-o", page, "--no-halves")
    text = page.read_text("utf-8")
    assert f"<td>job</td><td>{job.job_id}</td>" in text
    assert "<title>scan.npz</title>" in text
    assert "r_noise" in found  # it was compared with what it was made from


def test_neither_file_nor_job_nor_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptycho_bluesky.cli._report_page._run", lambda uid: None)
    refused("abcdef12", "-o", tmp_path / "page.html", kind=FormatError, text="no job .*no run in the catalogue")


def test_what_a_run_says_of_itself() -> None:
    from ptycho_bluesky.cli._report_page import _run_rows

    block = {
        "frames_key": "f",
        "position_keys": ["y", "x"],
        "geometry": {"energy_kev": 8.8, "distance_m": 2.0, "detector_pixel_m": 75e-6},
        "exposure_s": 0.05,
    }
    start = {"time": 0.0, "uid": "u-1", "plan_name": "ptycho_scan", "sample": "star", "ptychography": block}
    run = SimpleNamespace(metadata={"start": start, "stop": {"time": 7.5, "exit_status": "abort", "reason": "tired"}})
    rows = dict(_run_rows(run))
    assert rows["lasted"] == "7.5 s"
    assert (rows["ended"], rows["sample"], rows["run"]) == ("abort tired", "star", "u-1")
    assert (rows["photon energy"], rows["exposure"]) == ("8.8 keV", "50 ms a frame")
    start["ptychography"] = {"nonsense": 1}
    assert "photon energy" not in dict(_run_rows(SimpleNamespace(metadata={"start": start, "stop": None})))
