import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from bluesky import FailedStatus, RunEngine
from bluesky.utils import RequestAbort, RunEngineInterrupted

from ptycho_bluesky.devices import simulated_beamline
from ptycho_bluesky.errors import DeviceError
from ptycho_bluesky.experiment import raster
from ptycho_bluesky.plans import ptycho_scan


@pytest.fixture
def beamline():
    return simulated_beamline(frame_size=64, field_m=(1e-6, 1e-6), stage_errors=None, speedup=1e6)


class Recorder:
    """Keeps all documents and runs an action at the n-th event."""

    def __init__(self, engine, at=0, action=lambda: None):
        self.documents, self.at, self.action = [], at, action
        engine.subscribe(self)

    def __call__(self, name, doc):
        self.documents.append((name, doc))
        if name == "event" and len(self.events) == self.at:
            self.action()

    @property
    def events(self):
        return [doc for name, doc in self.documents if name == "event"]

    @property
    def stop(self):
        (doc,) = [doc for name, doc in self.documents if name == "stop"]
        return doc


def pausing(engine, defer=False):
    """Ask for a pause such that it comes right after the event: before the RunEngine's next message."""

    def ask():
        threading.Thread(target=engine.request_pause, args=(defer,)).start()
        time.sleep(0.05)

    return ask


def scan(b, **options):
    return ptycho_scan([b.detector], b.stage.y, b.stage.x, b.pattern, metadata=b.metadata, **options)


def whole(recorder, b):
    """Every point once, in order, at its place."""
    events = recorder.events
    assert [e["seq_num"] for e in events] == list(range(1, len(b.pattern) + 1))
    places = np.array([(e["data"]["stage_y"], e["data"]["stage_x"]) for e in events])
    assert np.allclose(places * 1e-6, b.pattern.positions, atol=1e-12)
    assert recorder.stop["exit_status"] == "success" and recorder.stop["num_events"]["primary"] == len(b.pattern)


@pytest.mark.parametrize("defer", [True, False])
def test_pause_and_resume(beamline, defer):
    engine = RunEngine({}, context_managers=[])
    recorder = Recorder(engine, 5, pausing(engine, defer))
    with pytest.raises(RunEngineInterrupted):
        engine(scan(beamline))
    assert engine.state == "paused" and not beamline.stage.moving and 5 <= len(recorder.events) <= 7
    engine.resume()
    whole(recorder, beamline)
    assert engine.rewindable


@pytest.mark.parametrize("message", range(40, 62))
def test_a_pause_at_any_message_of_a_point_loses_and_repeats_nothing(beamline, message):
    b = replace(beamline, pattern=raster(2e-7, 4e-7, 2e-7))
    engine, seen = RunEngine({}, context_managers=[]), []
    recorder, ask = Recorder(engine), pausing(engine)

    def hook(msg):
        seen.append(msg.command)
        if len(seen) == message:
            ask()

    engine.msg_hook = hook
    with pytest.raises(RunEngineInterrupted):
        engine(scan(b))
    engine.resume()
    whole(recorder, b)


@pytest.mark.parametrize("after_s", [0.013, 0.029, 0.041, 0.057])
def test_pauses_at_any_moment_lose_and_repeat_nothing(beamline, after_s):
    b = beamline
    for axis in (b.stage.y, b.stage.x):
        axis.speedup.put(1.0)
        axis.velocity.put(50.0)  # a few ms a move
        axis.settling_time.put(0.002)
    b.detector.exposure_time.put(0.003)
    b.detector.speedup.put(1.0)
    engine = RunEngine({}, context_managers=[])
    recorder = Recorder(engine)

    def later():
        timer = threading.Timer(after_s, lambda: engine.request_pause(False))
        timer.start()
        return timer

    timer, pauses = later(), 0
    try:
        engine(scan(b))
    except RunEngineInterrupted:
        while engine.state == "paused" and pauses < 12:
            pauses += 1
            assert not b.stage.moving
            timer = later()
            try:
                engine.resume()
            except RunEngineInterrupted:
                continue
        timer.cancel()
        timer.join()
        if engine.state == "paused":
            engine.resume()
    assert pauses >= 2
    whole(recorder, b)


def test_ctrl_c_twice_pauses_at_once_and_resumes():
    b = simulated_beamline(frame_size=64, field_m=(1e-6, 1e-6), stage_errors=None, speedup=1e6)
    engine = RunEngine({})  # with its own handler of SIGINT

    def twice():
        os.kill(os.getpid(), signal.SIGINT)  # a pause at the next checkpoint, and half a second for the second one
        time.sleep(0.2)
        if engine.state == "running":
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=twice)
    recorder = Recorder(engine, 4, thread.start)
    slow = b.stage.y
    slow.speedup.put(1.0)
    slow.velocity.put(0.5)
    with pytest.raises(RunEngineInterrupted):
        engine(scan(b))
    assert engine.state == "paused" and not b.stage.moving
    slow.speedup.put(1e6)
    thread.join()
    engine.resume()
    whole(recorder, b)


def test_abort_from_another_thread_in_mid_move(beamline):
    b = beamline
    engine = RunEngine({}, context_managers=[])
    b.stage.y.set(0.2).wait(1)

    def slowly():
        b.stage.x.speedup.put(1.0)
        b.stage.x.velocity.put(0.05)
        threading.Timer(0.3, lambda: engine.abort("beam lost")).start()

    recorder = Recorder(engine, 7, slowly)
    began = time.monotonic()
    with pytest.raises((RequestAbort, RunEngineInterrupted)):
        engine(scan(b))
    assert time.monotonic() - began < 5 and engine.state == "idle"
    assert recorder.stop["exit_status"] == "abort" and recorder.stop["num_events"] == {"primary": len(recorder.events)}
    assert len(recorder.events) == 7 and not b.stage.moving and b.detector._staged.value == "no"
    assert [e["seq_num"] for e in recorder.events] == list(range(1, 8))


def test_abort_of_a_paused_scan_returns_to_the_start(beamline):
    b = beamline
    engine = RunEngine({}, context_managers=[])
    b.stage.y.set(0.2).wait(1)
    recorder = Recorder(engine, 7, pausing(engine))
    with pytest.raises(RunEngineInterrupted):
        engine(scan(b, return_to_start=True))
    engine.abort("enough")
    assert recorder.stop["exit_status"] == "abort" and recorder.stop["num_events"]["primary"] == 7
    assert b.stage.y.position == pytest.approx(0.2) and b.stage.x.position == pytest.approx(0)


def test_stop_keeps_what_was_measured(beamline):
    engine = RunEngine({}, context_managers=[])
    recorder = Recorder(engine, 7, pausing(engine))
    with pytest.raises(RunEngineInterrupted):
        engine(scan(beamline))
    engine.stop()
    assert recorder.stop["exit_status"] == "success" and recorder.stop["num_events"]["primary"] == 7


def test_a_detector_that_fails_in_mid_scan(beamline):
    b = beamline
    engine = RunEngine({}, context_managers=[])
    original, count = b.detector.expose, iter(range(1000))

    def failing():
        if next(count) == 6:
            raise DeviceError("detector: the high voltage is off")
        return original()

    b.detector.expose = failing
    recorder = Recorder(engine)
    with pytest.raises(DeviceError, match="the high voltage is off"):
        engine(scan(b, return_to_start=True))
    assert recorder.stop["exit_status"] == "fail" and "high voltage" in recorder.stop["reason"]
    assert recorder.stop["num_events"]["primary"] == len(recorder.events) == 6
    assert not b.stage.moving and b.stage.y.position == pytest.approx(0) and b.detector._staged.value == "no"
    b.detector.expose = original
    again = Recorder(engine)
    engine(scan(b))  # the next scan is as if nothing had been
    whole(again, b)


def test_an_axis_that_fails_in_mid_scan_stops_the_other(beamline):
    b = beamline
    engine = RunEngine({}, context_managers=[])

    def jam():
        b.stage.x.speedup.put(1.0)
        b.stage.x.velocity.put(0.01)
        b.stage.y.speedup.put(1.0)
        b.stage.y.velocity.put(0.01)
        threading.Timer(0.2, b.stage.x.stop).start()

    recorder = Recorder(engine, 3, jam)
    with pytest.raises(FailedStatus):
        engine(scan(b))
    assert recorder.stop["exit_status"] == "fail" and recorder.stop["num_events"]["primary"] == 3
    assert "stage_x was stopped at" in recorder.stop["reason"] or "stage_x" in recorder.stop["reason"]
    assert not b.stage.moving


def test_a_callback_that_fails_leaves_the_engine_rewindable(beamline):
    engine = RunEngine({}, context_managers=[])

    def bad():
        raise ValueError("a callback's fault")

    Recorder(engine, 2, bad)
    with pytest.raises(ValueError, match="a callback's fault"):
        engine(scan(beamline))
    assert engine.rewindable and engine.state == "idle"


def test_an_axis_that_cannot_be_stopped_does_not_hide_why_the_scan_failed(beamline, caplog):
    b = beamline

    def jammed(*, success=False):
        raise OSError("no answer from the controller")

    def broken():
        raise DeviceError("detector: the high voltage is off")

    b.stage.y.stop, b.detector.expose = jammed, broken
    engine = RunEngine({}, context_managers=[])
    recorder = Recorder(engine)
    with pytest.raises(DeviceError, match="the high voltage is off"):
        engine(scan(b))
    assert "stage_y could not be stopped" in caplog.text and recorder.stop["exit_status"] == "fail"
