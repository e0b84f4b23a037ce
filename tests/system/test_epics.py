"""EPICS over the wire, on loopback: the same plan gives the same dataset, and faults say what they are."""

from __future__ import annotations

import importlib.util
import json
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


def run(case: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(CLIENT), case, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def home(tmp_path: Path, use_home: Callable[[Path], Path]) -> Path:
    return use_home(tmp_path / "home")


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
