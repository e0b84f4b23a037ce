import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from ptycho_bluesky.devices import PIEZO_ERRORS, SimulatedDetector, SimulatedStage, simulated_beamline
from ptycho_bluesky.errors import ConfigurationError, DeviceError
from ptycho_bluesky.experiment import orientations
from ptycho_bluesky.optics import DetectorModel, diffraction, object_corners, probe_from_info, propagator_for


@pytest.fixture
def run_engine():
    return RunEngine({}, context_managers=[])


@pytest.fixture(scope="module")
def beamline():
    return simulated_beamline(frame_size=64, field_m=(2e-6, 2e-6), stage_errors=None, speedup=1e6)


def measured(beamline, y=0.0, x=0.0):
    beamline.stage.y.set(y).wait(5)
    beamline.stage.x.set(x).wait(5)
    beamline.detector.trigger().wait(5)
    return beamline.detector.image.get()


def test_outside_of_the_sample_is_said(beamline):
    beamline.stage.y.limits = (-100, 100)
    beamline.stage.y.set(50).wait(5)
    with pytest.raises(DeviceError, match=r"outside of the simulated sample, stage_y = 50 um .*allowed is -\d"):
        beamline.detector.trigger()
    beamline.stage.y.set(0).wait(5)
    beamline.detector.trigger().wait(5)


def test_unknown_specimen_and_mask_without_folder():
    with pytest.raises(ConfigurationError, match="specimen is 'gold'; allowed are cells, foam"):
        simulated_beamline("gold", frame_size=64)
    with pytest.raises(ConfigurationError, match="folder is None, but the mask"):
        simulated_beamline(frame_size=64, detector_model=DetectorModel(dead_fraction=0.1))
    with pytest.raises(ConfigurationError, match="the specimen has shape"):
        simulated_beamline(np.ones((80, 80), np.complex64), frame_size=64)
    with pytest.raises(ConfigurationError, match=r"2 faults\): exposure_s is 0; .*; overlap is 1.2"):
        simulated_beamline(overlap=1.2, exposure_s=0)


def test_frames_are_the_physics_of_the_true_place():
    b = simulated_beamline(frame_size=64, field_m=(2e-6, 2e-6), photons_per_frame=1e7, speedup=1e6, seed=4)
    pixel = b.metadata.geometry.pixel_size_m(64)
    for y, x in ((0.3, -0.4), (-0.7, 0.2)):
        frame = measured(b, y, x).astype(float)
        true = np.array(b.stage.true_position())
        assert 0 < np.abs(true - (y, x)).max() < 0.05  # not where it was sent
        corners = object_corners(true[None] * 1e-6, b.truth.shape, 64, pixel)
        expected = diffraction(
            b.probe * np.float32(np.sqrt(1e7)), b.truth, corners, propagator_for(None, "far-field", 64)
        )
        chi2 = ((frame - expected[0]) ** 2)[expected[0] > 5] / expected[0][expected[0] > 5]
        assert chi2.mean() == pytest.approx(1.0, abs=0.1)
        away = object_corners(np.array([[y, x]]) * 1e-6 + 0.03e-6, b.truth.shape, 64, pixel)
        other = diffraction(b.probe * np.float32(np.sqrt(1e7)), b.truth, away, propagator_for(None, "far-field", 64))[0]
        assert ((frame - other) ** 2 / np.maximum(other, 1)).mean() > 1.3 * chi2.mean()


def test_photons_follow_the_exposure(beamline):
    beamline.detector.exposure_time.put(0.05)
    one = measured(beamline).sum(dtype=float)
    beamline.detector.exposure_time.put(0.2)
    four = measured(beamline).sum(dtype=float)
    beamline.detector.exposure_time.put(0.05)
    assert one == pytest.approx(5e5 * 0.8, rel=0.25) and four / one == pytest.approx(4, rel=0.02)
    with pytest.raises(DeviceError, match="detector_exposure_time was set to 0"):
        beamline.detector.exposure_time.put(0)


def test_an_exposure_takes_its_time_and_can_be_given_up():
    b = simulated_beamline(frame_size=64, field_m=(1e-6, 1e-6), exposure_s=0.1, speedup=1.0)
    began = time.monotonic()
    b.detector.stage()
    status = b.detector.trigger()
    with pytest.raises(DeviceError, match="triggered while it exposes"):
        b.detector.trigger()
    status.wait(5)
    assert 0.1 <= time.monotonic() - began < 2
    lost = b.detector.trigger()
    b.detector.unstage()
    with pytest.raises(DeviceError, match="unstaged while it exposed"):
        lost.wait(5)
    b.detector.trigger().wait(5)


@pytest.mark.parametrize("orientation", orientations())
def test_mounted_any_way_the_loaded_frame_is_the_same(tmp_path, orientation):
    model = DetectorModel(dead_fraction=0.05, saturation=65535)
    b = simulated_beamline(
        frame_size=64, field_m=(1e-6, 1e-6), photons_per_frame=1e7, stage_errors=None, speedup=1e6,
        orientation=orientation, detector_model=model, folder=tmp_path,
    )  # fmt: skip
    straight = simulated_beamline(
        frame_size=64, field_m=(1e-6, 1e-6), photons_per_frame=1e7, stage_errors=None, speedup=1e6
    )
    mask = np.load(tmp_path / "mask.npy")
    assert b.metadata.mask_uri == (tmp_path / "mask.npy").as_uri() and b.metadata.orientation == orientation
    frame, reference = measured(b, 0.1, 0.2), measured(straight, 0.1, 0.2)
    assert (frame[mask] == 0).all()
    seen, good = orientation.apply(frame).astype(float), ~orientation.apply(mask)
    assert np.corrcoef(seen[good], reference[good])[0, 1] > 0.999


def test_a_stage_that_counts_backwards(tmp_path):
    options = {
        "frame_size": 64,
        "field_m": (2e-6, 2e-6),
        "stage_errors": None,
        "speedup": 1e6,
        "photons_per_frame": 1e7,
    }
    b, normal = simulated_beamline(axis_signs=(-1, 1), **options), simulated_beamline(**options)
    assert b.metadata.axis_signs == (-1, 1)
    assert np.corrcoef(measured(b, -0.4, 0.3).ravel(), measured(normal, 0.4, 0.3).ravel())[0, 1] > 0.999


def test_the_standard_beamline_is_complete(tmp_path):
    b = simulated_beamline(folder=tmp_path)
    assert b.metadata.missing() == [] and len(b.pattern) >= 400
    assert 0.65 <= b.pattern.overlap(b.metadata.probe_diameter_m) <= 0.75
    assert 8e-9 < b.metadata.geometry.pixel_size_m(128) < 15e-9
    assert b.probe.shape == (2, 128, 128) and np.load(tmp_path / "mask.npy").sum() > 5
    known = probe_from_info(b.metadata.probe, b.metadata.geometry, 128)
    assert 0.7 < abs((known[0] * b.probe[0].conj()).sum()) / (abs(b.probe[0]) ** 2).sum() < 0.99  # near, not the truth
    frame = measured(b)
    assert 1e5 < frame[~np.load(tmp_path / "mask.npy")].sum() < 1e6
    assert (np.abs(b.pattern.positions * 1e6) < b.stage.y.limits[1]).all()


@pytest.mark.parametrize("specimen", ["cells", "foam", "integrated-circuit", "siemens-star"])
def test_every_specimen_gives_frames(specimen):
    b = simulated_beamline(specimen, frame_size=64, field_m=(2e-6, 2e-6), speedup=1e6)
    assert measured(b).sum() > 1e5 and np.ptp(np.angle(b.truth)) > 0.3


def test_the_same_seed_gives_the_same_measurement():
    def frames(seed):
        b = simulated_beamline(frame_size=64, field_m=(1e-6, 1e-6), seed=seed, speedup=1e6)
        return np.stack([measured(b, *place) for place in b.pattern.positions[:5] * 1e6])

    assert (frames(1) == frames(1)).all() and (frames(1) != frames(2)).any()


def test_a_frame_is_fast():
    b = simulated_beamline(speedup=1e6)

    def once():
        began = time.thread_time()
        b.detector.expose()
        return time.thread_time() - began

    assert sorted(once() for _ in range(40))[20] < 2e-3


def test_ordinary_plans(run_engine, beamline):
    events, descriptors = [], []
    run_engine.subscribe(lambda _, doc: events.append(doc), "event")
    run_engine.subscribe(lambda _, doc: descriptors.append(doc), "descriptor")
    s, d = beamline.stage, beamline.detector
    s.y.limits = (-1.3, 1.3)
    run_engine(bp.scan([d], s.x, -0.5, 0.5, 5))
    assert len(events) == 5 and events[-1]["data"]["stage_x"] == pytest.approx(0.5)
    key = descriptors[0]["data_keys"]["detector_image"]
    assert (key["shape"], key["dtype"], key["dtype_numpy"]) == ([64, 64], "array", "<u2")
    image = events[0]["data"]["detector_image"]
    assert image.shape == (64, 64) and image.dtype == np.uint16 and not image.flags.writeable
    assert events[0]["data"]["detector_total"] == image.sum()
    assert not np.shares_memory(image, events[1]["data"]["detector_image"])
    assert descriptors[0]["configuration"]["detector"]["data"]["detector_exposure_time"] == 0.05
    run_engine(bp.count([d, s], 3))
    assert {"stage_y", "stage_rotation", "detector_image"} <= set(events[-1]["data"])
    before = len(events)
    run_engine(bps.mv(s.y, 0.2, s.x, -0.1))
    run_engine(bp.rel_spiral_fermat([d], s.x, s.y, 1.0, 1.0, 0.1, 1.0))
    assert len(events) - before > 10
    assert (s.y.position, s.x.position) == (pytest.approx(0.2), pytest.approx(-0.1))  # back where it began


def test_detector_over_any_object_and_probe():
    probe = np.zeros((1, 16, 16), np.complex64)
    probe[0, 6:10, 6:10] = 0.25
    s = SimulatedStage(errors=PIEZO_ERRORS, speedup=1e6)
    d = SimulatedDetector(
        name="eiger", stage=s, obj=np.ones((32, 32), np.complex64), probe=probe,
        propagator=propagator_for(None, "far-field", 16), pixel_size_m=1e-8, flux_photons_s=1e6, exposure_s=1.0,
        speedup=1e6,
    )  # fmt: skip
    d.trigger().wait(1)
    assert d.image.get().dtype == np.uint32 and d.read()["eiger_total"]["value"] == pytest.approx(1e6, rel=0.01)
