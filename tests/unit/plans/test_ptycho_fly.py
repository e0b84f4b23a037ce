import threading
from itertools import pairwise

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus, RunEngineInterrupted
from event_model import DocumentNames, schema_validators

from ptycho_bluesky.devices import simulated_beamline
from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import PtychographyMetadata, fermat, lissajous, snake
from ptycho_bluesky.plans import ptycho_fly, ptycho_scan

PATTERN = snake(1.2e-6, 1.2e-6, 0.2e-6)  # 7 lines of 7 frames


@pytest.fixture
def beamline(tmp_path):
    return simulated_beamline(
        frame_size=64, field_m=(1.5e-6, 1.5e-6), stage_errors=None, speedup=1e6, folder=tmp_path, overlap=0.6
    )


def fly(b, pattern=PATTERN, **options):
    chosen = {"exposure_s": 0.001, "period_s": 0.002, "flush_s": 0.01, **options}
    return ptycho_fly([b.detector], b.flyer, pattern, metadata=b.metadata, **chosen)


class Documents(list):
    def __init__(self, engine, on_range=None):
        super().__init__()
        self.on_range = on_range
        engine.subscribe(self.take)

    def take(self, name, doc):
        self.append((name, doc))
        if name == "stream_datum" and self.on_range is not None:
            call, self.on_range = self.on_range, None
            call()

    def of(self, wanted):
        return [doc for name, doc in self if name == wanted]

    def rows(self, key):
        """Return the ranges of a data key, in their order."""
        known = {r["uid"] for r in self.of("stream_resource") if r["data_key"] == key}
        return [
            (d["indices"]["start"], d["indices"]["stop"])
            for d in self.of("stream_datum")
            if d["stream_resource"] in known
        ]

    def values(self, key):
        (resource,) = [r for r in self.of("stream_resource") if r["data_key"] == key]
        with h5py.File(resource["uri"].removeprefix("file://localhost"), "r") as file:
            return file[resource["parameters"]["dataset"]][()]


def pausing(engine, defer=False):
    """Ask for a pause from another thread: the RunEngine's own would wait for itself."""
    return lambda: threading.Thread(target=engine.request_pause, args=(defer,)).start()


def whole(documents, count):
    for key in ("detector_image", "stage_y", "stage_x"):
        rows = documents.rows(key)
        assert rows[0][0] == 0 and rows[-1][1] == count
        assert all(a[1] == b[0] for a, b in pairwise(rows))
        assert len(documents.values(key)) == count


def test_a_whole_fly_scan(beamline):
    b, engine = beamline, RunEngine({}, context_managers=[])
    documents = Documents(engine)
    (uid,) = engine(fly(b, md={"sample": "star"}))
    whole(documents, 49)
    measured = np.stack([documents.values(key) for key in ("stage_y", "stage_x")], axis=1)
    np.testing.assert_allclose(measured * 1e-6, PATTERN.positions, atol=1e-10)
    assert documents.values("detector_image").sum() > 0
    (start,), (stop,) = documents.of("start"), documents.of("stop")
    assert start["uid"] == uid and start["plan_name"] == "ptycho_fly" and start["sample"] == "star"
    assert stop["exit_status"] == "success" and stop["num_events"] == {"primary": 49}
    block = PtychographyMetadata.from_start(start)
    assert (block.exposure_s, block.period_s, block.pattern.num_points) == (0.001, 0.002, 49)
    assert block.estimate.seconds == pytest.approx(49 * 0.002 + 7 * b.flyer.turn_s)
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)


@pytest.mark.parametrize("most", [1, 14, 1000])
def test_flights_go_on_in_the_same_stream(beamline, most):
    engine = RunEngine({}, context_managers=[])
    documents = Documents(engine)
    engine(fly(beamline, flight_frames=most))
    whole(documents, 49)
    assert len(documents.of("descriptor")) == 1 and len(documents.of("stream_resource")) == 3


def test_steps_and_flight_give_the_same_keys_and_places(beamline):
    b, engine = beamline, RunEngine({}, context_managers=[])
    documents = Documents(engine)
    engine(ptycho_scan([b.detector], b.stage.y, b.stage.x, PATTERN, metadata=b.metadata))
    stepped = np.array([(e["data"]["stage_y"], e["data"]["stage_x"]) for e in documents.of("event")])
    keys = set(documents.of("descriptor")[0]["data_keys"])
    documents.clear()
    engine(fly(b))
    flown = np.stack([documents.values(key) for key in ("stage_y", "stage_x")], axis=1)
    np.testing.assert_allclose(flown, stepped, atol=1e-4)
    assert {"detector_image", "stage_y", "stage_x"} <= keys & set(documents.of("descriptor")[0]["data_keys"])


@pytest.mark.parametrize("defer", [False, True])
def test_a_pause_neither_loses_nor_repeats_a_frame(beamline, defer):
    b, engine = beamline, RunEngine({}, context_managers=[])
    b.flyer.speedup.put(20.0)
    documents = Documents(engine, pausing(engine, defer))
    with pytest.raises(RunEngineInterrupted):
        engine(fly(b, flight_frames=14, period_s=0.02))
    assert engine.state == "paused"
    seen = sum(stop - start for start, stop in documents.rows("stage_y"))
    assert 0 < seen < 49
    engine.resume()
    whole(documents, 49)
    assert documents.of("stop")[0]["exit_status"] == "success"
    assert engine.rewindable


def test_an_abort_keeps_what_was_written(beamline):
    b, engine = beamline, RunEngine({}, context_managers=[])
    b.flyer.speedup.put(5.0)
    documents = Documents(engine, pausing(engine))
    with pytest.raises(RunEngineInterrupted):
        engine(fly(b, period_s=0.02))
    engine.abort("enough")
    (stop,) = documents.of("stop")
    count = stop["num_events"]["primary"]
    assert stop["exit_status"] == "abort" and 0 < count < 49
    assert documents.rows("stage_y")[-1][1] == documents.rows("detector_image")[-1][1] == count
    assert len(documents.values("stage_y")) == count
    assert engine.rewindable and engine.state == "idle"


def test_a_flyer_that_fails_in_flight(beamline):
    b, engine = beamline, RunEngine({}, context_managers=[])
    b.flyer.speedup.put(5.0)
    documents = Documents(engine, b.flyer.stop)
    with pytest.raises(FailedStatus):
        engine(fly(b, period_s=0.02))
    (stop,) = documents.of("stop")
    assert stop["exit_status"] == "fail" and "success=False" in stop["reason"]
    assert 0 < stop["num_events"]["primary"] == documents.rows("stage_y")[-1][1] < 49
    documents.clear()
    b.flyer.speedup.put(1e6)
    engine(fly(b))  # the next scan is as if nothing had been
    whole(documents, 49)


def test_a_curve_is_flown_in_one_line(beamline):
    engine = RunEngine({}, context_managers=[])
    documents = Documents(engine)
    pattern = lissajous(0.6e-6, 0.6e-6, 0.2e-6)
    engine(fly(beamline, pattern, min_overlap=None))
    whole(documents, len(pattern))


def test_what_cannot_be_flown_is_refused(beamline):
    b, engine, names = beamline, RunEngine({}, context_managers=[]), []
    engine.subscribe(lambda name, _: names.append(name))

    def refused(plan):
        with pytest.raises(PlanError) as caught:
            engine(plan)
        return str(caught.value)

    assert "has no lines that could be flown" in refused(fly(b, fermat(1e-6, 1e-6, 0.2e-6)))
    assert "exposure not above the period" in refused(fly(b, period_s=0.0005))
    assert "stage_x leaves its limits" in refused(fly(b, snake(0.2e-6, 9e-6, 0.2e-6)))
    assert "'stage' cannot fly: it has no prepare" in refused(
        ptycho_fly([b.detector], b.stage, PATTERN, metadata=b.metadata)
    )
    assert "flush_s is 0" in refused(fly(b, flush_s=0.0))
    wrong = b.metadata.model_copy(update={"position_keys": ("stage_y", "piezo_x")})
    assert "position_keys[1] is 'piezo_x'" in refused(
        ptycho_fly([b.detector], b.flyer, PATTERN, metadata=wrong, exposure_s=0.001)
    )
    assert "limits.max_seconds allows 0.2 s" in refused(fly(b, limits={"max_seconds": 0.2}))
    assert names == []
