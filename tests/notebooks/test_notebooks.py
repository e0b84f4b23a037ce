"""Every notebook runs to its end, and what it shows is what its text promises; here with small sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST = 15
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)(?:#[^)]*)?\)")

pytestmark = [pytest.mark.xdist_group("notebooks"), pytest.mark.timeout(600)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_kept_clean(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert not [cell.source for cell in code if cell.outputs or cell.execution_count is not None]
    assert not [cell.source for cell in code if len(cell.source.splitlines()) > LONGEST]
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
    assert set(json.loads(file.read_text())["metadata"]) == {"kernelspec", "language_info"}
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not [target for target in LINK.findall(text) if not (file.parent / target).exists()]


def test_the_page_names_all() -> None:
    page = (ROOT / "docs" / "tutorials" / "notebooks.md").read_text()
    assert [file.name for file in FILES if file.name not in page] == []
    assert len(FILES) == 6


def test_first_look(run_notebook: Callable[..., Any]) -> None:
    ran = run_notebook(
        "01_first_look",
        {"sample": "siemens-star", "options": {"field_m": (2e-6, 2e-6), "frame_size": 64}},
        {
            "frames": "[live['frames'], live['frames_inferred'], s.news.planned]",
            "trusted": "trusted",
            "correlation": "correlation",
            "r": "r_factor",
            "state": "scan.state",
        },
    )
    frames, inferred, planned = ran.facts["frames"]
    assert frames == inferred == planned > 40
    assert ran.facts["state"] == "done"
    assert ran.facts["trusted"] is True
    assert ran.facts["correlation"] > 0.9
    assert ran.facts["r"] < 0.25
    assert ran.pictures >= 5
    assert "Ptychography dashboard" in ran.text


def test_your_own_data(run_notebook: Callable[..., Any]) -> None:
    ran = run_notebook(
        "02_your_own_data",
        {"field_um": 1.8, "step_um": 0.17, "photons": 3e5, "frame_size": 64},
        {
            "same": "[same_frames, float(apart.max())]",
            "checks": "[good.ok, swapped.ok]",
            "r": "[result.r_factor, kept.r_factor]",
            "resolution_px": "halves.resolution / pixel",
            "files": "sorted(file.name for file in folder.iterdir())",
        },
    )
    assert ran.facts["same"][0] is True
    assert ran.facts["same"][1] < 1e-12
    assert ran.facts["checks"] == [True, False]
    assert "axes of the positions are swapped" in ran.text
    assert ran.facts["r"][0] == ran.facts["r"][1] < 0.1
    assert 1 <= ran.facts["resolution_px"] < 4
    wanted = ["report.html", "result.cxi", "result.h5", "result.ptyr", "scan.cxi", "scan.npz"]
    assert ran.facts["files"] == wanted
    assert ran.pictures == 2


def test_train_and_deploy(run_notebook: Callable[..., Any]) -> None:
    ran = run_notebook(
        "03_train_and_deploy",
        {"frame_size": 64, "photons": 2e5, "field_um": (2.0, 4.8), "steps": 8},
        {
            "job": "done.state",
            "reasons": "len(gate.reasons)",
            "served": "model_used",
            "hashes": "[new.content_hash, record.content_hash, service_history(library)[-1].content_hash]",
            "events": "[event.event for event in service_history(library)]",
            "agreement": "agreement",
            "steps": "curves['step'][-1]",
        },
    )
    assert ran.facts["job"] == "done"
    assert ran.facts["steps"] == 8
    assert ran.facts["reasons"] >= 4
    assert ran.facts["served"] == "in-service"
    assert len(set(ran.facts["hashes"])) == 1
    assert ran.facts["events"][-1] == "promoted"
    assert min(ran.facts["agreement"].values()) > 0.5
    assert ran.pictures >= 4


def test_a_beamline_day(run_notebook: Callable[..., Any]) -> None:
    ran = run_notebook(
        "04_a_beamline_day",
        {"frame_size": 64, "field_um": 2.0, "lost_after": 12, "energies_kev": [8.5, 9.1]},
        {
            "frames": "[frames_before, frames_after, used]",
            "r": "r_factor",
            "refused": "refused",
            "campaign": "[len(series.uids), energies_found]",
            "night": "[done.state for done in night]",
            "found": "[len(runs), len(ours)]",
            "results": "[len(of_main), len(good)]",
        },
    )
    before, after, used = ran.facts["frames"]
    assert before + after == used
    assert before == 12
    assert after > 40
    assert ran.facts["r"] < 0.4
    assert "max_seconds" in ran.facts["refused"]
    assert ran.facts["campaign"] == [2, 2]
    assert ran.facts["night"] == ["done"] * 3
    assert ran.facts["found"][0] == ran.facts["found"][1] > 8
    assert ran.facts["results"] == [1, 1]
    assert ran.pictures == 3


def test_distributed_and_remote(run_notebook: Callable[..., Any]) -> None:
    ran = run_notebook(
        "05_distributed_and_remote",
        {"field_um": (1.6, 2.4), "photons": 3e5, "epochs": 12, "ranks": 2, "grow_from": 12},
        {
            "r": "[alone.r_factor, shared.r_factor]",
            "rms": "rms",
            "one_job": "one_job",
            "states": "[job.state for job in ended.values()]",
            "grown": "spec_of(job.job_id).source.grow",
            "frames": "[frames_used, s.news.planned]",
            "place": "spec_of(jobs['urgent']).place",
        },
    )
    assert ran.facts["r"][1] == pytest.approx(ran.facts["r"][0], abs=0.01)
    assert ran.facts["rms"] < 0.1
    assert ran.facts["one_job"] is True
    assert ran.facts["states"] == ["done"] * 3
    assert ran.facts["grown"] is True
    assert ran.facts["frames"][0] == ran.facts["frames"][1]
    assert ran.facts["place"] == "local"
    assert ran.pictures >= 3


def test_compare_with_pty_chi(run_notebook: Callable[..., Any]) -> None:
    ran = run_notebook(
        "06_compare_with_pty_chi",
        {"field_um": 1.4, "photons": 3e5, "seconds": 2.0},
        {
            "r": "ours.r_factor",
            "correlation": "correlation",
            "round_trip": "round_trip",
            "contestants": "sorted(wanted)",
            "run": "[pty_chi_is_here, theirs is not None]",
        },
    )
    assert ran.facts["r"] < 0.25
    assert ran.facts["correlation"] > 0.9
    assert ran.facts["round_trip"] == 0
    assert "pty-chi rPIE, 1 mode" in ran.facts["contestants"]
    assert "ours, 1 mode" in ran.facts["contestants"]
    assert ran.facts["run"][0] == ran.facts["run"][1]
    assert ran.pictures == 2
