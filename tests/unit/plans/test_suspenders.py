"""A beam that goes away in mid-scan: every point once, in steps and in flight; and a shutter that is always closed."""

import threading
import time

import numpy as np
import pytest
from bluesky.suspenders import SuspendBoolHigh
from ophyd import Signal

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import snake
from ptycho_bluesky.plans import ptycho_fly, ptycho_scan, shutter_wrapper

PATTERN = snake(0.8e-6, 0.8e-6, 0.2e-6)


@pytest.fixture
def b(flying_beamline):
    return flying_beamline


@pytest.fixture
def dump(engine):
    """A function that, subscribed to documents, takes the beam away at the fifth for 0.3 s."""
    lost = Signal(name="beam_lost", value=0)
    engine.install_suspender(SuspendBoolHigh(lost))
    seen = []

    def at_the_fifth(_, doc):
        seen.append(time.monotonic())
        if len(seen) == 5:
            lost.put(1)
            threading.Timer(0.3, lost.put, (0,)).start()

    at_the_fifth.seen = seen
    yield at_the_fifth
    engine.clear_suspenders()


def test_steps_wait_for_the_beam_and_lose_nothing(b, engine, recorded, dump):
    engine.subscribe(dump, "event")
    engine(ptycho_scan([b.detector], b.stage.y, b.stage.x, PATTERN, metadata=b.metadata))
    events = recorded.of("event")
    assert [e["seq_num"] for e in events] == list(range(1, 26))
    measured = np.array([(e["data"]["stage_y"], e["data"]["stage_x"]) for e in events])
    np.testing.assert_allclose(measured * 1e-6, PATTERN.positions, atol=1e-12)
    assert np.diff(dump.seen).max() > 0.25
    assert recorded.of("stop")[0]["exit_status"] == "success"


def test_a_flight_halts_and_goes_on(b, engine, recorded, dump):
    b.flyer.speedup.put(5.0)
    engine.subscribe(dump, "stream_datum")
    engine(
        ptycho_fly([b.detector], b.flyer, PATTERN, metadata=b.metadata, exposure_s=0.01, period_s=0.02, flush_s=0.02)
    )
    b.flyer.speedup.put(1e6)
    (stop,) = recorded.of("stop")
    assert stop["exit_status"] == "success" and stop["num_events"] == {"primary": 25}
    assert np.diff(dump.seen).max() > 0.25


def test_a_shutter_is_closed_however_the_scan_ends(b, engine):
    shutter, values = Signal(name="shutter", value="closed"), []
    shutter.subscribe(lambda value, **_: values.append(value), run=False)
    scan = {"metadata": b.metadata, "min_overlap": None}
    engine(shutter_wrapper(ptycho_scan([b.detector], b.stage.y, b.stage.x, PATTERN, **scan), shutter))
    assert values == ["open", "closed"]
    with pytest.raises(PlanError):
        engine(shutter_wrapper(ptycho_scan([], b.stage.y, b.stage.x, PATTERN, **scan), shutter))
    assert values == ["open", "closed"] * 2
