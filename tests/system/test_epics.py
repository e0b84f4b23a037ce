"""EPICS over the wire, on loopback: the same plan gives the same dataset, and faults say what they are."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("caproto", reason="needs the extra 'epics'")
pytest.importorskip("p4p", reason="needs the extra 'epics'")
pytest.importorskip("aioca", reason="needs the extra 'epics'")

CLIENT = Path(__file__).with_name("epics_client.py")
_spec = importlib.util.spec_from_file_location("epics_client", CLIENT)
assert _spec is not None and _spec.loader is not None
client = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(client)

RESOLUTION_UM = 1e-4


def run(case: str, folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(CLIENT), case, str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def home(tmp_path: Path, use_home: Callable[[Path], Path]) -> Path:
    return use_home(tmp_path / "home")


@pytest.mark.timeout(240)
def test_the_same_plan_gives_the_same_dataset_whatever_the_devices(tmp_path: Path, home: Path) -> None:
    from ptycho_bluesky.devices import replay_beamline
    from ptycho_bluesky.experiment import PtychoDataset

    b = client.beamline(tmp_path / "metadata")
    truth = client.scan(b.stage, b.detector, b.metadata)
    assert truth["frames"].shape == (9, client.SIZE, client.SIZE) and truth["exit_status"] == "success"

    pixel = b.metadata.geometry.pixel_size_m(client.SIZE)
    recorded = PtychoDataset(
        truth["frames"], truth["positions"] * 1e-6, geometry=b.metadata.geometry, pixel_size_m=pixel
    )
    again = replay_beamline(recorded, folder=tmp_path / "replay")
    replayed = client.scan(again.stage, again.detector, again.metadata)
    assert (replayed["frames"] == truth["frames"]).all()
    assert np.allclose(replayed["positions"], truth["positions"], atol=1e-9)

    outcome = run("same", tmp_path)
    assert outcome["exit"] == 0
    for kind in ("classic", "ca", "pva"):
        assert outcome[kind]["exit_status"] == "success" and outcome[kind]["error"] is None
        assert outcome[kind]["counts"]["event"] == outcome[kind]["counts"]["stream_datum"] == 9
        with np.load(tmp_path / f"{kind}.npz") as got:
            assert (got["frames"] == truth["frames"]).all(), kind
            assert np.abs(got["positions"] - truth["positions"]).max() <= 0.51 * RESOLUTION_UM, kind


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "classic",
            {
                "stall": "stage_[yx] did not come to .* SIM:m[12].DMOV says no end",
                "hang": "detector gave no frame 4 in 1.6 s; SIM:cam1: is in state Acquire",
                "restarted": "stage_[yx] cannot move: SIM:m[12].ACCL, .* do not answer|detector gave no frame 4",
            },
        ),
        (
            "pva",
            {
                "stall": "stage_[yx] did not come to .* pva://SIM:m[12].VAL says no end",
                "hang": "detector gave no frame in 1.5 s: pva://SIM:cam1:Acquire_RBV was set",
                "lost": r"stage_[yx] cannot move: pva://SIM:m[12].RBV does not answer; is the IOC running\?",
            },
        ),
    ],
)
def test_a_fault_is_named_what_was_measured_is_kept_and_the_devices_go_on(
    tmp_path: Path, home: Path, kind: str, said: dict[str, str]
) -> None:
    """A stage that stalls, a detector that gives no frame, an IOC that dies or is restarted in mid-scan."""
    outcome = run("faults", tmp_path, kind, *said)
    for name, text in said.items():
        fault = outcome[name]
        assert fault["frames"] == 3 and fault["exit_status"] == "fail", (name, fault)
        assert re.search(text, fault["error"]), (name, fault)
        assert fault["frames_after"] == 9 and fault["exit_status_after"] == "success", (name, fault)


def test_variables_that_do_not_answer_are_named(tmp_path: Path, home: Path) -> None:
    outcome = run("unanswered", tmp_path)
    assert re.search(
        r"no answer from SIM:HDF1:Capture, .* and \d+ more within 0.5 s: is the IOC running", outcome["ca"]
    )
    assert re.search(r"no answer from SIM:m1.ACCL, .* and \d+ more within 0.5 s", outcome["pva"])
