"""What may happen to a live session that already runs: other networks, deaths, viewers that never read."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

HERE = Path(__file__).parent
sys.path.append(str(HERE))
import edge_console  # noqa: E402
import edge_models  # noqa: E402

from ptycho_bluesky.inference import ProbeViT, ProbeViTModel, ProbeViTSizes  # noqa: E402
from ptycho_bluesky.stream import LiveSession, LiveView, find_segments  # noqa: E402

START_S = 90.0
SIZE = 64


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """One session for all the tests, which leave it running."""
    folder = tmp_path_factory.mktemp("live")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        patch.setenv("PTYCHO_BLUESKY_HOME", str(folder))
        with LiveSession("edge_models:Exact", folder=folder, ring_mib=16) as made:
            made.wait_ready(START_S)
            yield made
    assert not [name for name in find_segments() if name.startswith(made.name)]
    assert not [child for child in psutil.Process().children(recursive=True) if child.pid not in before]


def begin(session, uid):
    session.begin(uid, edge_console.block(200), expected=200, extents=None)


def put(session, first, stop):
    where = np.array(list(edge_console.places(200)))
    for k in range(first, stop):
        assert session.put(edge_models.frame_at(*where[k]), k, *where[k])


def wait_for(condition, timeout=START_S):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def finish(session, uid, frames):
    session.end("success")
    result = session.wait_result(uid, START_S)
    assert (result["frames"], result["frames_inferred"], result["frames_dropped"]) == (frames, frames, 0)
    assert edge_models.phase_error(result["mosaic"], 0.8) < 0.02
    return result


def test_another_network_takes_over_in_mid_run_and_no_frame_is_lost(session):
    begin(session, "swap")
    put(session, 0, 60)
    session.use_model("edge_models:Slow")
    put(session, 60, 70)
    wait_for(lambda: session.status().model == "edge_models:Slow")
    assert session.status().model_message == ""
    session.use_model("edge_models:Exact")
    put(session, 70, 120)
    wait_for(lambda: session.status().model == "edge_models:Exact")
    finish(session, "swap", 120)


@pytest.fixture
def damaged(tmp_path):
    """Files that claim to be networks."""
    with torch.random.fork_rng():
        network = ProbeViT(ProbeViTSizes(size=32, width=16, depth=1, heads=2, features=2, hidden=8, iterations=2))
    ProbeViTModel("small", network.eval(), "").save(tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "letter.safetensors").write_text("Dear network,")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"a": [print]}, tmp_path / "code.pth")
    return tmp_path


def test_a_file_that_is_no_network_is_not_taken_and_the_status_says_why(session, damaged):
    begin(session, "bad")
    put(session, 0, 40)
    for name in ("truncated.safetensors", "letter.safetensors", "empty.pth", "code.pth", "none.safetensors"):
        session.use_model(damaged / name)
        wait_for(lambda name=name: name in session.status().model_message)
        now = session.status()
        assert "edge_models:Exact stays in service" in now.model_message and now.model == "edge_models:Exact"
    session.use_model("edge_models:Coarse")
    wait_for(lambda: "does not fit into the present image" in session.status().model_message)
    put(session, 40, 80)
    finish(session, "bad", 80)
    session.use_model("edge_models:Exact")
    wait_for(lambda: session.status().model == "edge_models:Exact")


def test_a_killed_edge_process_is_back_in_no_time_with_the_network_that_served(session):
    session.use_model("edge_models:Slow")
    wait_for(lambda: session.status().model == "edge_models:Slow")
    begin(session, "killed")
    put(session, 0, 40)
    wait_for(lambda: session.status().frames_inferred > 8)
    before = session.status()
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: session.status().pid not in (0, before.pid) and session.status().state == "running")
    now = session.status()
    born = psutil.Process(now.pid).cpu_times()
    assert now.alive and now.model == "edge_models:Slow" and now.restarts == before.restarts + 1
    assert born.user + born.system < 1.0, "it imports nothing anew, which alone would take 2 s of a core"
    put(session, 40, 60)
    finish(session, "killed", 60)
    session.use_model("edge_models:Exact")


def test_the_death_of_the_nursery_costs_no_frame_either(session):
    begin(session, "nursery")
    put(session, 0, 30)
    nursery = psutil.Process(session.status().pid).parent()
    assert "ptycho_bluesky.inference" in nursery.cmdline()
    pid = session.status().pid
    nursery.kill()
    put(session, 30, 60)
    wait_for(lambda: session.status().pid != pid and session.status().state == "running")
    finish(session, "nursery", 60)


def test_a_viewer_that_never_reads_disturbs_nobody(session):
    begin(session, "viewer")
    put(session, 0, 20)
    wait_for(lambda: session.status().image_segment != "")
    with LiveView(session.name) as idle:
        old = idle.image()
        segments = set()
        for k in range(20, 140, 20):  # and holds the memory of an image that is replaced meanwhile
            put(session, k, k + 20)
            wait_for(lambda k=k: session.status().frames_inferred >= k + 20)
            segments.add(session.status().image_segment)
        finish(session, "viewer", 140)
        image = idle.image()
    assert (image.frames, image.run_uid) == (140, "viewer") and image.number > (0 if old is None else old.number)


def test_the_model_in_service_is_followed(tmp_path, monkeypatch):
    from ptycho_bluesky.inference import _swap
    from ptycho_bluesky.inference._swap import ModelSwap, PointerWatch

    monkeypatch.setattr(_swap.settings(), "__dict__", {**_swap.settings().__dict__, "home": tmp_path})
    monkeypatch.setattr(_swap, "LOOK_S", 0.0)
    (tmp_path / "models").mkdir()
    watch = PointerWatch()
    assert not watch.changed()
    (tmp_path / "models" / "in-service.json").write_text(json.dumps({"model": "a"}))
    assert watch.changed() and not watch.changed()
    loaded = []
    swap = ModelSwap(lambda name: loaded.append(name) or time.sleep(0.05) or name)
    for name in ("one", "two", "three"):
        swap.ask(name)
    wait_for(lambda: "three" in loaded)
    wait_for(lambda: (done := swap.take()) is not None and done.name == "three")
    assert loaded[-1] == "three" and swap.take() is None
