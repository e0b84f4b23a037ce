import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import psutil
import pytest
from bluesky import RunEngine
from event_model import compose_run

from ptycho_bluesky.callbacks import LiveInference
from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream import LiveView, find_segments

HERE = Path(__file__).parent
sys.path.append(str(HERE))
import edge_console  # noqa: E402
import edge_models  # noqa: E402

SCAN_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left():
    """Every process and every shared segment of this module is gone when its tests are."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        yield
    assert not [name for name in find_segments() if name.startswith(f"{os.getpid()}-")]
    assert not [child for child in psutil.Process().children(recursive=True) if child.pid not in before]


@pytest.fixture(scope="module")
def warm(nothing_is_left, tmp_path_factory):
    with LiveInference("edge_models:Exact", folder=tmp_path_factory.mktemp("live"), ring_mib=64) as made:
        made.wait_ready(SCAN_S)
        yield made


@pytest.fixture
def live(tmp_path):
    made = []

    def make(model, **options):
        one = LiveInference(model, folder=tmp_path / "live", **{"ring_mib": 8, **options})
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()
        one.close()


@pytest.fixture(scope="module")
def RE():
    return RunEngine({})


@pytest.fixture
def run(RE):
    """Run a plan with a callback subscribed; return its exit status and uid."""

    def go(plan, callback):
        stops = []
        tokens = [RE.subscribe(callback), RE.subscribe(lambda name, doc: stops.append(doc), "stop")]
        try:
            RE(plan)
        finally:
            for token in tokens:
                RE.unsubscribe(token)
        return stops[-1]["exit_status"], stops[-1]["run_start"]

    return go


def phase_error(result, least=0.8):
    return edge_models.phase_error(result["mosaic"], least)


def wait_for(condition, timeout=30.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_the_image_grows_while_the_scan_runs(warm, run):
    callback, seen = warm, []

    def look(k):
        if k in (30, 60):
            wait_for(lambda: view.status().frames_inferred > k // 2 and view.image() is not None)
            seen.append((view.status(), view.image()))

    with LiveView(callback.name) as view:
        status, uid = run(edge_console.scan(80, each=look), callback)
        result = callback.wait(SCAN_S)
        last, image = view.status(), view.image()
    assert status == "success"
    assert (result["state"], result["exit_status"], result["run_uid"]) == ("done", "success", uid)
    assert (result["frames"], result["frames_inferred"], result["frames_dropped"]) == (80, 80, 0)
    assert 0 < result["latency_ms_p50"] <= result["latency_ms_p95"]
    assert phase_error(result) < 0.01
    (first, small), (second, large) = seen
    assert first.alive and first.state == "running" and first.frames_expected == 80
    assert second.frames_inferred > first.frames_inferred
    assert np.isfinite(large.phase).sum() > np.isfinite(small.phase).sum()
    assert (last.state, last.mosaic, image.frames) == ("idle", result["mosaic"], 80)
    with np.load(result["mosaic"]) as data:
        np.testing.assert_allclose(image.phase, data["phase"], atol=1e-5)
        assert image.origin == tuple(data["origin"])


def test_a_scan_that_continues_another_expects_its_own_frames_alone():
    told, callback = {}, LiveInference.__new__(LiveInference)
    callback._session = SimpleNamespace(closed=False, begin=lambda *_, **named: told.update(named))
    callback._reader = None
    block = edge_console.block(80)
    callback("start", {"uid": "goes-on", "ptychography": {**block, "first_point": 50}, "num_points": 30})
    assert told["expected"] == 30
    callback._reader = None
    callback("start", {"uid": "whole", "ptychography": block})
    assert told["expected"] == 80


def test_an_event_costs_little(warm, run):
    callback = warm
    descriptor, times = None, []
    bundle = compose_run(metadata={"ptychography": edge_console.block(200)})
    callback("start", bundle.start_doc)
    point = edge_console.Point(128)
    descriptor = bundle.compose_descriptor(name="primary", data_keys=point.describe())
    callback("descriptor", descriptor.descriptor_doc)
    for k in range(200):
        data = {"det": edge_models.frame_at(k / 4, k / 4, 128, np.uint16), "y": k / 4, "x": k / 4}
        event = descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0), validate=False)
        start = time.perf_counter()
        callback("event", event)
        times.append(time.perf_counter() - start)
        time.sleep(0.002)
    callback("stop", bundle.compose_stop())
    assert callback.wait(SCAN_S)["frames_inferred"] == 200
    assert float(np.median(times)) < 1e-3  # 0.08 ms on a machine of its own; the benchmark holds it to 0.2


def test_a_killed_edge_process_costs_the_scan_nothing(warm, run, caplog):
    callback, seen = warm, {}
    before = callback.wait_ready(SCAN_S)

    def kill(k):
        if k == 30:
            wait_for(lambda: callback.status().frames_inferred > 10)
            os.kill(before.pid, signal.SIGKILL)
            wait_for(lambda: not callback.status().alive)
            seen["dead"] = callback.status()

    start = time.monotonic()
    status, _ = run(edge_console.scan(80, each=kill), callback)
    assert time.monotonic() - start < 5, "the scan did not wait for the edge process"
    result = callback.wait(SCAN_S)
    assert status == "success"
    assert not seen["dead"].alive
    assert "killed by signal 9" in caplog.text
    now = callback.status()
    assert now.alive and now.restarts == before.restarts + 1 and now.pid != before.pid
    assert (result["frames"], result["frames_inferred"], result["frames_dropped"]) == (80, 80, 0), "none was lost"
    assert phase_error(result) < 0.02


def test_a_frame_that_kills_the_edge_process_is_passed_over(live, run):
    callback = live("edge_models:Exact", batch=1)
    callback.wait_ready(SCAN_S)

    def poison(k, frame):
        frame[0, 2] = edge_models.POISON if k == 15 else 1
        return frame

    status, _ = run(edge_console.scan(40, spoil=poison), callback)
    result = callback.wait(SCAN_S)
    assert status == "success"
    assert callback.status().restarts == 2
    assert (result["frames"], result["frames_inferred"], result["frames_dropped"]) == (40, 39, 1)


def test_bad_frames_are_refused_by_name_and_harm_nothing(warm, run):
    callback = warm

    def spoil(k, frame):
        bad = {
            5: np.full_like(frame, np.nan), 6: frame[:-3], 7: frame * 0, 8: -frame, 9: frame[0], 10: frame.astype("c8"),
        }  # fmt: skip
        return bad.get(k, frame)

    status, _ = run(edge_console.scan(60, spoil=spoil), callback)
    result = callback.wait(SCAN_S)
    assert status == "success"
    assert result["refused"] == {"not finite": 1, "wrong shape": 2, "all zero": 1, "negative": 1, "not numbers": 1}
    assert result["first_refused"]["not finite"] == 5
    assert (result["frames"], result["frames_inferred"]) == (60, 54)
    assert phase_error(result) < 0.02


def test_a_slow_network_drops_frames_and_says_how_many(live, run):
    callback = live("edge_models:Slow", ring_mib=1, batch=1)  # 50 ms a frame, room for 50 frames
    callback.wait_ready(SCAN_S)
    status, _ = run(edge_console.scan(120, pause_s=0), callback)
    result = callback.wait(SCAN_S)
    assert status == "success"
    assert result["frames"] == 120 == result["frames_inferred"] + result["frames_dropped"]
    assert result["frames_dropped"] > 10


def test_a_network_that_cannot_be_loaded_is_said_once(live, run):
    callback = live("edge_models:Broken")
    with pytest.raises(InferenceError, match="weights are missing"):
        callback.wait_ready(SCAN_S)
    status, _ = run(edge_console.scan(10), callback)
    result = callback.wait(SCAN_S)
    assert status == "success"
    assert result["state"] == "failed" and "weights are missing" in result["message"]
    assert callback.status().restarts == 0


def test_what_is_no_ptychography_run_passes_by(warm, run, caplog):
    callback = warm
    status, uid = run(edge_console.scan(3, md={"plan_name": "count"}), callback)
    assert status == "success"
    assert uid not in callback.status().run_uid
    with caplog.at_level(logging.WARNING):
        assert run(edge_console.scan(3, md={"ptychography": {"frames_key": 1}}), callback)[0] == "success"
        assert len([r for r in caplog.records if "the scan goes on" in r.message]) == 1
        caplog.clear()
        md = {"ptychography": edge_console.block(3, frames_key="other")}
        assert run(edge_console.scan(3, md=md), callback)[0] == "success"
    assert len([r for r in caplog.records if "lacks the data keys" in r.message]) == 1
    assert "lacks the data keys" in callback.wait(SCAN_S)["message"]
    assert run(edge_console.scan(20), callback)[0] == "success"
    assert callback.wait(SCAN_S)["frames_inferred"] == 20, "the next sound run is shown"


def test_of_runs_at_the_same_time_the_first_is_shown(warm, caplog):
    callback = warm
    point, runs = edge_console.Point(), []
    for _ in range(2):
        bundle = compose_run(metadata={"ptychography": edge_console.block(5)})
        callback("start", bundle.start_doc)
        runs.append((bundle, bundle.compose_descriptor(name="primary", data_keys=point.describe())))
    for _, descriptor in runs:
        callback("descriptor", descriptor.descriptor_doc)
    for k in range(5):
        for _, descriptor in runs:
            data = {"det": edge_models.frame_at(k, k), "y": float(k), "x": float(k)}
            callback("event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0), validate=False))
    for bundle, _ in runs[::-1]:
        callback("stop", bundle.compose_stop())
    result = callback.wait(SCAN_S)
    assert (result["run_uid"], result["frames_inferred"]) == (runs[0][0].start_doc["uid"], 5)
    assert caplog.text.count("is still open") == 1


def test_frames_in_files_are_read_by_the_edge_process(warm, tmp_path):
    callback = warm
    where = np.array(list(edge_console.places(60)))
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = np.stack([edge_models.frame_at(y, x) for y, x in where])
    array = {"dtype": "array", "shape": [1, 64, 64], "source": "test", "external": "STREAM:", "dtype_numpy": "<f4"}
    number = {"dtype": "number", "shape": [], "source": "test"}
    bundle = compose_run(metadata={"ptychography": edge_console.block(60)})
    callback("start", bundle.start_doc)
    descriptor = bundle.compose_descriptor(name="primary", data_keys={"det": array, "y": number, "x": number})
    callback("descriptor", descriptor.descriptor_doc)
    resource = bundle.compose_stream_resource(
        mimetype="application/x-hdf5", uri=f"file://localhost{tmp_path}/scan.h5", data_key="det",
        parameters={"dataset": "data", "chunk_shape": [1]},
    )  # fmt: skip
    callback("stream_resource", resource.stream_resource_doc)
    for k, (y, x) in enumerate(where):
        data = {"y": y, "x": x}
        callback("event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0), validate=False))
        if k % 20 == 19:
            datum = resource.compose_stream_datum(
                {"start": k - 19, "stop": k + 1}, descriptor=descriptor.descriptor_doc
            )
            callback("stream_datum", datum)
    lost = resource.compose_stream_datum({"start": 60, "stop": 63}, descriptor=descriptor.descriptor_doc)
    callback("stream_datum", lost)
    callback("stop", bundle.compose_stop())
    result = callback.wait(SCAN_S)
    assert result["frames_inferred"] == 60
    assert result["refused"] == {"no position": 3}
    assert phase_error(result) < 0.02


@pytest.fixture
def console():
    started = []

    def start(folder, count=80):
        command = [sys.executable, str(HERE / "edge_console.py"), "edge_models:Exact", str(folder), str(count)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()
        one.stdout.close()


def test_two_consoles_do_not_meet_and_the_death_of_one_lets_its_edge_process_finish(console, tmp_path):
    dying, other = console(tmp_path / "dying"), console(tmp_path / "other", count=60)
    name, second = dying.stdout.readline().strip(), other.stdout.readline().strip()
    assert name != second
    assert dying.stdout.readline() == "halfway\n"
    with LiveView(name) as view:
        edge = psutil.Process(view.status().pid)
        dying.kill()
        dying.communicate()
        edge.wait(20)
        assert view.status().state == "closed" and not view.status().alive
    (statistics,) = (tmp_path / "dying").glob("*.json")
    result = json.loads(statistics.read_text())
    assert result["state"] == "interrupted"
    assert result["frames"] == result["frames_inferred"] >= 21
    assert phase_error(result, 1.0) < 0.02
    out, _ = other.communicate(timeout=60)
    assert (other.returncode, out.splitlines()[-1]) == (0, "60")
    assert not [found for found in find_segments() if found.startswith((name, second))]


def test_closing_finishes_a_run_that_is_open(live):
    callback = live("edge_models:Exact")
    with pytest.raises(InferenceError, match="no ptychography run yet"):
        callback.wait(1)
    bundle = compose_run(metadata={"ptychography": edge_console.block(5)})
    callback("start", bundle.start_doc)
    callback.close()
    callback("stop", bundle.compose_stop())
    result = json.loads((callback.folder / f"{bundle.start_doc['uid']}.json").read_text())
    assert result["state"] == "interrupted"
    with pytest.raises(InferenceError, match="not available"):
        callback.wait_ready(1)


def test_the_console_loads_no_network():
    code = "import sys, ptycho_bluesky.callbacks; print([m for m in ('torch', 'numba', 'cupy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_documents_that_make_no_sense_are_counted_and_said_once(warm, caplog):
    warm.wait_ready(SCAN_S)
    bundle = compose_run(metadata={"ptychography": edge_console.block(4)})
    warm("start", bundle.start_doc)
    descriptor = bundle.compose_descriptor(name="primary", data_keys=edge_console.Point().describe())
    warm("descriptor", descriptor.descriptor_doc)
    for k in range(4):
        data = {"det": edge_models.frame_at(k, k), "y": float(k), "x": float(k)}
        event = descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0), validate=False)
        if k in (1, 2):
            del event["data"]["y"]
        warm("event", event)
    warm("stop", bundle.compose_stop())
    result = warm.wait(SCAN_S)
    assert (result["frames"], result["frames_inferred"], result["refused"]) == (4, 2, {"unreadable document": 2})
    assert caplog.text.count("stumbled") == 1 and "KeyError" in result["message"]


def test_a_frame_larger_than_the_ring_is_said(live):
    callback = live("edge_models:Broken", ring_mib=1)
    bundle = compose_run(metadata={"ptychography": edge_console.block(1)})
    callback("start", bundle.start_doc)
    point = edge_console.Point(1024)
    descriptor = bundle.compose_descriptor(name="primary", data_keys=point.describe())
    callback("descriptor", descriptor.descriptor_doc)
    data = {"det": point.value["det"], "y": 0.0, "x": 0.0}
    callback("event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0), validate=False))
    assert callback._trouble and callback._session.ring.dropped == 1


def test_settings_out_of_range_are_refused(tmp_path):
    with pytest.raises(InferenceError, match="must be 1 or more"):
        LiveInference("any", folder=tmp_path, batch=0)
