"""A standing edge process, from a detector's stream to mosaics, with all that a source may do meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import psutil
import pytest

from ptycho_bluesky.cli._edge import _metadata
from ptycho_bluesky.errors import FormatError, InferenceError
from ptycho_bluesky.stream import FrameRing, LiveView, find_segments

CALLBACKS = Path(__file__).parents[1] / "callbacks"
sys.path.append(str(CALLBACKS))
import edge_console  # noqa: E402
import edge_models  # noqa: E402

COUNT = 60
START_S = 90.0


@pytest.fixture
def standing(tmp_path):
    """The process, the ring that it reads and the name of its session."""
    name = f"test-{uuid.uuid4().hex}"
    np.save(tmp_path / "positions.npy", np.array(list(edge_console.places(COUNT))))
    command = [
        sys.executable,
        "-m",
        "ptycho_bluesky.cli",
        "edge",
        "--source",
        f"ring://{name}-detector",
        "--session",
        name,
    ]
    command += ["--positions", str(tmp_path / "positions.npy"), "--model", "edge_models:Exact"]
    command += ["--runs", "3", "--json"]
    command += ["--folder", str(tmp_path / "live"), "--ring-mib", "8", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(CALLBACKS), "PTYCHO_BLUESKY_HOME": str(tmp_path)}
    ring = FrameRing.create(f"{name}-detector", 16 << 20)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process, ring, name
    process.kill()
    process.communicate()
    ring.close()
    ring.unlink()
    assert not [found for found in find_segments() if found.startswith(name)]


def expose(ring, indices, size=64):
    where = list(edge_console.places(COUNT))
    for k in indices:
        while not ring.put(edge_models.frame_at(*where[k], size, np.float32), k, np.nan, np.nan):
            time.sleep(0.01)


def wait_for(condition):
    end = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def view_of(name, process):
    end = time.monotonic() + START_S
    while True:
        try:
            return LiveView(name)
        except InferenceError:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_stream_becomes_images_whatever_the_source_and_the_edge_process_do(standing):
    process, ring, name = standing
    ring.send({"type": "start"})
    order = np.random.default_rng(0).permutation(8).tolist()  # late, but known by their numbers
    expose(ring, order)
    with view_of(name, process) as view:
        wait_for(lambda: view.status().frames_inferred == 8)
        os.kill(view.status().pid, signal.SIGKILL)
        expose(ring, [k for k in range(8, COUNT) if k not in (20, 21)])  # two are never seen
        ring.send({"type": "stop", "exit_status": "success"})
        ring.send({"type": "start"})
        expose(ring, range(10))  # then the detector stops, and starts again with frames of another shape
        ring.send({"type": "start"})
        expose(ring, range(COUNT), size=48)
        wait_for(lambda: view.status().source.get("restarts") == 2)
        said = view.status()
        assert said.source["connected"] and said.source["name"] == f"ring://{name}-detector"
        ring.send({"type": "stop", "exit_status": "success"})
        out, err = process.communicate(timeout=START_S)
    assert process.returncode == 0, err
    done = json.loads(out)
    whole, broken, other = done["runs"]
    assert (whole["frames"], whole["frames_inferred"], whole["frames_dropped"]) == (COUNT, COUNT - 2, 2)
    assert (whole["exit_status"], broken["exit_status"], other["exit_status"]) == ("success", "restarted", "success")
    assert (broken["frames_inferred"], other["frames_inferred"]) == (10, COUNT)
    for run in (whole, other):
        assert edge_models.phase_error(run["mosaic"], 0.8) < 0.02
    assert done["counts"]["restarts"] == 2
    assert not [p for p in psutil.process_iter(["cmdline"]) if name in " ".join(p.info["cmdline"] or [])]


def test_metadata_that_are_none_are_refused_with_all_their_faults(tmp_path):
    path = tmp_path / "block.json"
    path.write_text('{"frames_key": "a", "colour": "red"}')
    with pytest.raises(FormatError, match=r"2 faults.*position_keys.*colour"):
        _metadata(path)
    path.write_text(json.dumps({"ptychography": edge_console.block(3)}))
    assert _metadata(path).position_unit == "px" == _metadata(None).position_unit
    path.write_text("[]")
    with pytest.raises(FormatError, match="give a JSON file"):
        _metadata(path)
