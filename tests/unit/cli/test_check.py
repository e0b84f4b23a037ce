"""``check``: a tree for people, one JSON object for programs, exit status 1 for what would go wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptycho_bluesky.cli import app
from ptycho_bluesky.experiment import Geometry, PtychoDataset, fermat
from ptycho_bluesky.formats import save_dataset
from ptycho_bluesky.optics import siemens_star, simulate_dataset, zone_plate_probe

runner = CliRunner()


@pytest.fixture(scope="module")
def scan() -> PtychoDataset:
    geometry = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=150e-6)
    pixel = geometry.pixel_size_m(64)
    zones = {"diameter_m": 120e-6, "outermost_zone_m": 60e-9, "defocus_m": 150e-6}
    probe = zone_plate_probe(64, pixel, geometry.wavelength_m, **zones)
    return simulate_dataset(siemens_star((200, 200)), probe, fermat(1e-6, 1e-6, 1.2e-7), geometry, 1e6)


def test_a_good_measurement(scan: PtychoDataset, tmp_path: Path) -> None:
    save_dataset(tmp_path / "scan.npz", scan)
    done = runner.invoke(app, ["check", str(tmp_path / "scan.npz"), "--json"], catch_exceptions=False)
    result = json.loads(done.stdout)
    assert (done.exit_code, result["ok"], result["findings"], result["load_arguments"]) == (0, True, [], {})
    assert result["orientation_decided"]
    assert 0 < result["r_factor_of_noise"] < result["r_factor_of_nothing"]


def test_wrong_signs_are_status_1_with_what_to_give(scan: PtychoDataset, tmp_path: Path) -> None:
    save_dataset(tmp_path / "scan.npz", replace(scan, positions=scan.positions * [1, -1]))
    done = runner.invoke(app, ["check", str(tmp_path / "scan.npz"), "--json"], catch_exceptions=False)
    result = json.loads(done.stdout)
    assert (done.exit_code, result["ok"]) == (1, False)
    assert result["load_arguments"] == {"axis_signs": [1, -1]}
    assert result["findings"][0]["what"] == "orientation"


def test_a_tree_for_people(scan: PtychoDataset, tmp_path: Path) -> None:
    save_dataset(tmp_path / "scan.npz", replace(scan, positions=scan.positions * 1e6))
    done = runner.invoke(app, ["check", str(tmp_path / "scan.npz"), "--no-trials"], catch_exceptions=False)
    assert done.exit_code == 1
    assert "error unit" in done.stdout
    assert "micrometres" in done.stdout
