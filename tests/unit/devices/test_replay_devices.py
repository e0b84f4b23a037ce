import bz2
import io
import time
from dataclasses import replace

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from ptycho_bluesky.config import settings
from ptycho_bluesky.devices import ReplayDetector, ReplayStage, replay_beamline
from ptycho_bluesky.errors import ConfigurationError, DatasetError, DeviceError
from ptycho_bluesky.experiment import Geometry, PtychoDataset
from ptycho_bluesky.plans import ptycho_scan

GEOMETRY = Geometry(energy_kev=8.8, distance_m=1.0, detector_pixel_m=75e-6)


def dataset(n=12, unit=True, **changes):
    pixel = GEOMETRY.pixel_size_m(16) if unit else 1.0
    positions = np.stack([np.arange(n) * 5.0, (np.arange(n) % 3) * 7.0], axis=1) * pixel
    frames = np.arange(n, dtype=np.uint16)[:, None, None] + np.zeros((1, 16, 16), np.uint16)
    known = {"geometry": GEOMETRY, "pixel_size_m": pixel} if unit else {}
    return replace(PtychoDataset(frames=frames, positions=positions, **known), **changes)


def go(beamline, place):
    beamline.stage.y.set(place[0]).wait(5)
    beamline.stage.x.set(place[1]).wait(5)
    beamline.detector.trigger().wait(5)
    return int(beamline.detector.image.get()[0, 0])


def test_where_nothing_was_recorded_is_said():
    b = replay_beamline(dataset(unit=False))
    with pytest.raises(
        DeviceError, match=r"no frame was recorded at \(2.5, 20\) px; the nearest is at \(.*allowed are"
    ):
        go(b, (2.5, 20.0))
    assert go(b, (5.0, 7.0)) == 1


def test_faults_of_the_dataset_and_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"the mask cannot be written to .*; give another folder"):
        replay_beamline(dataset(mask=np.eye(16, dtype=bool)), folder=tmp_path / "file")
    with pytest.raises(DatasetError, match="positions"):
        replay_beamline(dataset(positions=np.zeros((3, 2))))
    with pytest.raises(ConfigurationError, match="folder is None, but the probe has to be written"):
        replay_beamline(dataset(probe=np.ones((1, 16, 16), np.complex64)))
    with pytest.raises(DeviceError, match=r"rate_hz is 'recorded', but dataset .* has no increasing timestamps"):
        replay_beamline(dataset(), rate_hz="recorded")


@pytest.mark.parametrize("unit", [True, False])
def test_a_scan_of_the_recorded_positions_gives_back_the_recording(tmp_path, unit):
    data = dataset(unit=unit, probe=np.ones((2, 16, 16), np.complex64), mask=np.eye(16, dtype=bool), rotation_deg=30.0)
    b = replay_beamline(data, folder=tmp_path)
    assert b.metadata.position_unit == ("um" if unit else "px") and b.metadata.missing() == []
    assert (np.load(tmp_path / "mask.npy") == np.eye(16, dtype=bool)).all()
    assert b.metadata.probe.uri == (tmp_path / "probe.npy").as_uri() and b.metadata.probe.modes == 2
    assert b.stage.rotation.position == b.metadata.rotation_deg == 30.0
    events = []
    engine = RunEngine({}, context_managers=[])
    engine.subscribe(lambda _, doc: events.append(doc["data"]), "event")
    engine(ptycho_scan([b.detector], b.stage.y, b.stage.x, b.pattern, metadata=b.metadata, min_overlap=None))
    assert [int(e["detector_image"][0, 0]) for e in events] == list(range(12))
    scale = 1e6 if unit else 1.0
    assert np.allclose([(e["stage_y"], e["stage_x"]) for e in events], data.positions * scale)


def test_two_frames_of_one_place_are_served_in_turn():
    positions = dataset(unit=False).positions.copy()
    positions[7] = positions[2]
    b = replay_beamline(dataset(unit=False, positions=positions))
    place = positions[2]
    assert [go(b, place) for _ in range(4)] == [2, 7, 2, 7]


def test_the_nearest_within_the_tolerance_is_served():
    data = dataset(unit=False)
    stage = ReplayStage(dataset=data, speedup=1e6)
    near = ReplayDetector(dataset=data, stage=stage)
    stage.y.set(10.9).wait(1)
    stage.x.set(14.5).wait(1)
    near.trigger().wait(1)
    assert near.image.get()[0, 0] == 2
    strict = ReplayDetector(name="strict", dataset=data, stage=stage, tolerance=0.5)
    with pytest.raises(DeviceError, match="strict: no frame was recorded"):
        strict.trigger()


def test_pace_given_and_pace_recorded():
    times = 1.7e9 + np.arange(12) * 0.04
    b = replay_beamline(dataset(unit=False, timestamps=times), rate_hz="recorded")
    assert b.detector.rate.get() == pytest.approx(25, rel=1e-3)
    began = time.monotonic()
    for place in b.pattern.positions[:6]:
        go(b, place)
    assert 0.19 < time.monotonic() - began < 2
    b.detector.rate.put(1e6)
    began = time.monotonic()
    for place in b.pattern.positions:
        go(b, place)
    assert time.monotonic() - began < 12 * 0.04


def test_frames_are_read_one_at_a_time():
    class Counting:
        def __init__(self, frames):
            self.frames, self.shape, self.dtype, self.asked = frames, frames.shape, frames.dtype, []

        def __getitem__(self, index):
            self.asked.append(index.stop - index.start)
            return self.frames[index]

    frames = Counting(dataset().frames)
    b = replay_beamline(dataset(frames=frames))
    assert frames.asked == [] and go(b, b.pattern.positions[3] * 1e6) == 3 and frames.asked == [1]


def test_near_field_and_ordinary_plans():
    geometry = Geometry(
        energy_kev=12.66, distance_m=1.12, detector_pixel_m=55e-6, modality="near-field", focus_to_sample_m=3.65e-3
    )
    pixel = geometry.pixel_size_m(16)
    data = dataset(
        geometry=geometry, modality="near-field", pixel_size_m=pixel, positions=dataset(unit=False).positions * pixel
    )
    b = replay_beamline(data)
    assert b.metadata.geometry.modality == "near-field" and b.metadata.missing() == []
    events = []
    engine = RunEngine({}, context_managers=[])
    engine.subscribe(lambda _, doc: events.append(doc["data"]), "event")
    y, x = (b.pattern.positions * 1e6).T
    engine(bp.list_scan([b.detector], b.stage.y, list(y), b.stage.x, list(x)))
    assert [int(e["detector_image"][0, 0]) for e in events] == list(range(12))


@pytest.mark.data
def test_measured_data_come_back_as_they_were_recorded(tmp_path):
    folder = settings().data
    if folder is None:
        pytest.skip("PTYCHO_BLUESKY_DATA is not set")
    with bz2.open(folder / "siemens_star_small.npz.bz2") as file:
        raw = np.load(io.BytesIO(file.read()))
        frames, positions = np.fft.fftshift(raw["data"][0], axes=(-2, -1)), raw["scan"][0].astype(float)
        probe = raw["probe"].reshape(1, 128, 128).astype(np.complex64)
    b = replay_beamline(PtychoDataset(frames=frames, positions=positions, probe=probe), folder=tmp_path)
    events = []
    engine = RunEngine({}, context_managers=[])
    engine.subscribe(lambda _, doc: events.append(doc["data"]), "event")
    engine(ptycho_scan([b.detector], b.stage.y, b.stage.x, b.pattern, metadata=b.metadata))
    assert len(events) == 516
    assert all((e["detector_image"] == f).all() for e, f in zip(events, frames, strict=True))
    assert np.allclose([(e["stage_y"], e["stage_x"]) for e in events], positions)
