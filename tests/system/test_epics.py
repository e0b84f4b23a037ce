"""EPICS over the wire, on loopback: the same plan gives the same dataset, and faults say what they are."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
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


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "your-beamline.md"

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("epics")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("epics")


def run(case: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(CLIENT), case, str(folder)]
    env = {**os.environ, "PTYCHO_BLUESKY_HOME": str(folder / "home")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=230, check=False, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def wire(folder: Path) -> dict[str, Any]:
    """What came out with a sound IOC; the code of the page is there to be run with it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    classic, connecting = blocks[1], blocks[2]
    start, end = classic.index("stage = "), classic.index("metadata = ")
    asynchronous = classic[:start].replace("Epics", "AsyncEpics") + connecting + classic[end:]
    asynchronous = asynchronous.replace("RE = RunEngine()\ndocuments", "documents")
    for name, code in (("page-classic", classic), ("page-asynchronous", asynchronous)):
        (folder / f"{name}.py").write_text(code.replace("/data/frames", str(folder)))
    return run("wire", folder)


@pytest.fixture(scope="module")
def faults(folder: Path) -> dict[str, Any]:
    return run("faults", folder)


def test_the_same_plan_gives_the_same_dataset_whatever_the_devices(folder: Path, wire: dict[str, Any]) -> None:
    from ptycho_bluesky.devices import replay_beamline
    from ptycho_bluesky.experiment import PtychoDataset

    b = client.beamline(folder / "here")
    truth = client.scan(b.stage, b.detector, b.metadata)
    assert truth["frames"].shape == (9, client.SIZE, client.SIZE) and truth["exit_status"] == "success"

    pixel = b.metadata.geometry.pixel_size_m(client.SIZE)
    recorded = PtychoDataset(
        truth["frames"], truth["positions"] * 1e-6, geometry=b.metadata.geometry, pixel_size_m=pixel
    )
    again = replay_beamline(recorded, folder=folder / "replay")
    replayed = client.scan(again.stage, again.detector, again.metadata)
    assert (replayed["frames"] == truth["frames"]).all()
    assert np.allclose(replayed["positions"], truth["positions"], atol=1e-9)

    assert wire["exit"] == 0
    for kind in ("classic", "ca", "pva"):
        assert wire[kind]["exit_status"] == "success" and wire[kind]["error"] is None
        assert wire[kind]["counts"]["event"] == wire[kind]["counts"]["stream_datum"] == 9
        with np.load(folder / f"{kind}.npz") as got:
            assert (got["frames"] == truth["frames"]).all(), kind
            assert np.abs(got["positions"] - truth["positions"]).max() <= 0.51 * RESOLUTION_UM, kind


def test_frames_of_triggers_from_outside_are_told_in_ranges(wire: dict[str, Any]) -> None:
    assert wire["flown"]["frames"] == 5 and wire["flown"]["stream_resource"] == wire["flown"]["descriptor"] == 1


def test_the_page_on_your_beamline_runs_as_it_stands(wire: dict[str, Any]) -> None:
    for name in ("page-classic", "page-asynchronous"):
        assert wire["page"][name]["event"] == wire["page"][name]["stream_datum"] == 9


def test_variables_that_do_not_answer_are_named(wire: dict[str, Any]) -> None:
    said = wire["unanswered"]
    assert re.search(r"no answer from NO:HDF1:Capture, .* and \d+ more within 0.5 s: is the IOC running", said["ca"])
    assert re.search(r"no answer from NO:m1.ACCL, .* and \d+ more within 0.5 s", said["pva"])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("classic-stall", "stage_[yx] did not come to .* SIM:m[12].DMOV says no end"),
        ("pva-stall", "stage_[yx] did not come to .* pva://SIM:m[12].VAL says no end"),
        ("classic-hang", "detector gave no frame 4 in 1.6 s; SIM:cam1: is in state Acquire"),
        ("pva-hang", "detector gave no frame in 1.5 s: pva://SIM:cam1:Acquire_RBV was set"),
        ("classic-restarted", "stage_[yx] cannot move: SIM:m[12].ACCL, .* do not answer|detector gave no frame 4"),
        ("pva-lost", r"stage_[yx] cannot move: pva://SIM:m[12].RBV does not answer; is the IOC running\?"),
    ],
)
def test_a_fault_is_named_what_was_measured_is_kept_and_the_devices_go_on(
    faults: dict[str, Any], fault: str, said: str
) -> None:
    """A stage that stalls, a detector that gives no frame, an IOC that dies or is restarted in mid-scan."""
    outcome = faults[fault]
    assert outcome["frames"] == 3 and outcome["exit_status"] == "fail", outcome
    assert re.search(said, outcome["error"]), outcome
    assert outcome["frames_after"] == 9 and outcome["exit_status_after"] == "success", outcome
