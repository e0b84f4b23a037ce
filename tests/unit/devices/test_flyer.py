"""Fly scans of simulated and replayed devices, driven by Bluesky's own stubs."""

import time
from collections import Counter

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from ophyd_async.core import DetectorTrigger, TriggerInfo

from ptycho_bluesky.devices import StreamDataset, StreamFile, replay_beamline, simulated_beamline
from ptycho_bluesky.errors import DeviceError
from ptycho_bluesky.experiment import FlyPath, PtychoDataset
from ptycho_bluesky.optics import diffraction, object_corners, propagator_for

FRAME = 64


@pytest.fixture
def make(tmp_path):
    def beamline(**changes):
        options = {"frame_size": FRAME, "field_m": (2e-6, 2e-6), "folder": tmp_path, "speedup": 1e3, **changes}
        return simulated_beamline(**options)

    return beamline


def path(rows=4, columns=25, step=0.05, rate_hz=1000.0):
    y, x = np.meshgrid((np.arange(rows) - (rows - 1) / 2) * step, np.arange(columns) * step - 0.6, indexing="ij")
    x[1::2] = x[1::2, ::-1]
    lines = tuple((i * columns, (i + 1) * columns) for i in range(rows))
    return FlyPath(np.stack([y, x], -1).reshape(-1, 2), 0.8 / rate_hz, 1 / rate_hz, lines)


def info(flight):
    return TriggerInfo(number_of_events=len(flight), trigger=DetectorTrigger.EXTERNAL_EDGE, livetime=flight.exposure_s)


def fly(detector, flyer, flights, before=lambda number: bps.null()):
    @bpp.stage_decorator([detector, flyer])
    @bpp.run_decorator(md={})
    def plan():
        for number, flight in enumerate(flights):
            yield from bps.prepare(detector, info(flight), wait=True)
            yield from bps.prepare(flyer, flight, wait=True)
            if not number:
                yield from bps.declare_stream(detector, flyer, name="primary", collect=True)
            yield from before(number)
            yield from bps.kickoff(detector, wait=True)
            yield from bps.kickoff(flyer, wait=True)
            yield from bps.collect_while_completing([flyer, detector], [detector, flyer], 0.01, "primary")

    yield from plan()


def flown(beamline, flights, **options):
    """Frames (N, H, W), positions (N, 2) and all documents of a run."""
    documents = []
    engine = RunEngine({}, context_managers=[])
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    engine(fly(beamline.detector, beamline.flyer, flights, **options))
    found = {}
    for name, doc in documents:
        if name == "stream_resource":
            with h5py.File(doc["uri"].removeprefix("file://localhost")) as file:
                found[doc["data_key"]] = file[doc["parameters"]["dataset"]][:]
    return found["detector_image"], np.stack([found["stage_y"], found["stage_x"]], 1), documents


def test_every_frame_of_every_flight_is_told_once(make):
    whole = path()
    frames, positions, documents = flown(make(), whole.flights(50))
    assert frames.shape == (100, FRAME, FRAME) and frames.dtype == np.uint16
    assert np.abs(positions - whole.positions).max() < 0.03  # the stage's errors, not more
    assert Counter(name for name, _ in documents)["stream_resource"] == 3
    ranges = [doc["indices"] for name, doc in documents if name == "stream_datum"]
    told = Counter(k for r in ranges for k in range(r["start"], r["stop"]))
    assert told == dict.fromkeys(range(100), 3)
    keys = next(doc for name, doc in documents if name == "descriptor")["data_keys"]
    assert keys["detector_image"]["shape"] == [1, FRAME, FRAME] and keys["stage_y"]["units"] == "um"
    assert all(key["external"] == "STREAM:" for key in keys.values())


def test_the_exposure_of_the_flight_is_recorded_and_that_of_steps_comes_back(make):
    b = make()
    _, _, documents = flown(b, path().flights(50))
    configuration = next(doc for name, doc in documents if name == "descriptor")["configuration"]
    assert configuration["detector"]["data"]["detector_exposure_time"] == pytest.approx(8e-4)
    assert b.detector.exposure_time.get() == 0.05


def test_frames_are_the_mean_of_the_path_during_the_exposure(make):
    b = make(stage_errors=None, photons_per_frame=1e7)
    line = path(rows=1, columns=8, step=0.2)
    frames, _, _ = flown(b, [line])
    pixel = b.metadata.geometry.pixel_size_m(FRAME)

    def chi2(parts):
        places = line.begin + (line.end - line.begin) * np.asarray(parts)[:, None, None]
        corners = object_corners(places.reshape(-1, 2) * 1e-6, b.truth.shape, FRAME, pixel)
        probe = b.probe * np.float32(np.sqrt(1e7 * line.exposure_s / 0.05))
        mean = diffraction(probe, b.truth, corners, propagator_for(None, "far-field", FRAME))
        mean = mean.reshape(len(parts), 8, FRAME, FRAME).mean(axis=0)
        good = (mean > 5) & ~np.load(b.metadata.mask_uri.removeprefix("file://"))
        return (((frames - mean) ** 2)[good] / mean[good]).mean()

    assert chi2([1 / 6, 1 / 2, 5 / 6]) == pytest.approx(1.0, abs=0.1)
    assert chi2([0.5]) > 1.2


def test_the_same_seed_flies_the_same_and_a_flight_prepared_twice_too(make):
    def measured(seed, twice=False):
        b = make(seed=seed)
        again = (lambda _: bps.prepare(b.flyer, path(rows=2), wait=True)) if twice else (lambda _: bps.null())
        return flown(b, [path(rows=2)], before=again)[:2]

    (frames, positions), (same, places), (other, _) = measured(1), measured(1, twice=True), measured(2)
    assert (frames == same).all() and (positions == places).all() and (frames != other).any()


def test_faults_of_a_path_come_in_one_list_before_anything_moves(make, tmp_path):
    b = make()
    faults = b.flyer.check_path(path(step=2.0, rate_hz=20_000))
    assert len(faults) == 4 and "too many for flyer" in faults[0] and "stage_x would move at 4e+04 um/s" in faults[2]
    with pytest.raises(DeviceError, match=r"flyer refuses the flight \(4 faults\)"):
        b.flyer.prepare(path(step=2.0, rate_hz=20_000))
    assert abs(b.stage.x.position) < 0.01 and not (tmp_path / "fly").exists()
    homeless = simulated_beamline(frame_size=FRAME, field_m=(2e-6, 2e-6))
    assert "no folder for what it captures" in homeless.flyer.check_path(path())[0]
    with pytest.raises(DeviceError, match="detector has no folder"):
        homeless.detector.prepare(info(path()))


def test_paused_it_halts_and_goes_on_at_the_next_frame(make):
    b = make(speedup=1.0)
    way = path(rows=1, columns=400, step=0.002)
    b.detector.prepare(info(way))
    b.flyer.prepare(way).wait(10)
    b.detector.kickoff()
    b.flyer.kickoff()
    done = b.flyer.complete()
    time.sleep(0.1)
    b.flyer.pause()
    halted = b.flyer.get_index()
    time.sleep(0.1)
    assert 0 < halted == b.flyer.get_index() == b.detector.get_index() < 400 and not done.done
    assert b.stage.x.position == pytest.approx(way.positions[halted - 1, 1], abs=0.03)
    b.flyer.resume()
    done.wait(10)
    b.detector.complete().wait(1)
    assert b.flyer.get_index() == b.detector.get_index() == 400
    b.flyer.unstage()
    b.detector.unstage()


@pytest.mark.parametrize("success", [True, False])
def test_stopped_it_keeps_what_was_taken(make, success):
    b = make(speedup=1.0)
    way = path(rows=1, columns=400, step=0.002)
    b.detector.prepare(info(way))
    b.flyer.prepare(way).wait(10)
    b.detector.kickoff()
    b.flyer.kickoff()
    time.sleep(0.1)
    b.flyer.stop(success=success)
    b.detector.stop(success=success)
    for status in (b.flyer.complete(), b.detector.complete() if success else b.flyer.complete()):
        if success:
            status.wait(1)
        else:
            with pytest.raises(DeviceError, match="was stopped in flight"):
                status.wait(1)
    taken = b.detector.get_index()
    b.detector.unstage()
    (file,) = (b.detector.folder).glob("*-detector-*.h5")
    with h5py.File(file) as f:
        assert 0 < taken < 400 and len(f["entry/data/data"]) == taken
    b.flyer.unstage()


def test_a_disk_that_takes_no_more_ends_the_flight_and_says_why(make, monkeypatch):
    b = make()
    real = StreamFile.append

    def full(self, rows):
        if self.written >= 25 and "detector_image" in rows:
            raise DeviceError("no space left")
        real(self, rows)

    monkeypatch.setattr(StreamFile, "append", full)
    with pytest.raises(FailedStatus) as failed:
        flown(b, path().flights(25))
    assert str(failed.value.__cause__) == "no space left"
    assert b.detector.get_index() == 0  # closed


def test_recorded_frames_are_flown_again(tmp_path):
    positions = np.stack([np.zeros(12), np.arange(12) * 5.0], axis=1)
    frames = np.arange(12, dtype=np.uint16)[:, None, None] + np.zeros((1, 16, 16), np.uint16)
    b = replay_beamline(PtychoDataset(frames=frames, positions=positions), folder=tmp_path)
    got, places, _ = flown(b, [FlyPath(positions, 0.01, 0.01, ((0, 12),))])
    assert (got == frames).all() and (places == positions).all()


def test_misuse_is_said(make):
    b = make()
    with pytest.raises(DeviceError, match="not prepared for frames"):
        b.detector.kickoff()
    with pytest.raises(DeviceError, match="not prepared; prepare it with a path"):
        b.flyer.kickoff()
    with pytest.raises(DeviceError, match="not kicked off"):
        b.detector.complete()
    with pytest.raises(DeviceError, match="not prepared"):
        b.flyer.complete()
    with pytest.raises(DeviceError, match="triggered for 1 frames; it is armed for 0"):
        b.detector.take(np.zeros((1, FRAME, FRAME), np.uint16))


def test_a_file_grows_row_by_row_and_says_what_it_holds(tmp_path):
    sets = [StreamDataset("a", "/x/a", (4, 4), "<u2"), StreamDataset("b", "/x/b", (), "<f8", "um")]
    file = StreamFile(tmp_path / "deep" / "f.h5", sets)
    assert list(file.documents()) == []
    file.append({"a": np.ones((3, 4, 4), np.uint16), "b": np.arange(3.0)})
    with h5py.File(file.path, swmr=True) as reader:
        assert reader["x/a"].shape == (3, 4, 4)
        names = [name for name, _ in file.documents(2)]
        assert names == ["stream_resource"] * 2 + ["stream_datum"] * 2
        file.append({"a": np.ones((1, 4, 4), np.uint16), "b": np.arange(1.0)})
        reader["x/b"].refresh()
        assert reader["x/b"].shape == (4,)
    assert [doc["indices"] for _, doc in file.documents()] == [{"start": 2, "stop": 4}] * 2
    with pytest.raises(DeviceError, match="was given rows of"):
        file.append({"a": np.ones((1, 4, 4), np.uint16)})
    file.close()
    with pytest.raises(DeviceError, match="cannot be written"):
        StreamFile(tmp_path / "deep" / "f.h5", sets)
