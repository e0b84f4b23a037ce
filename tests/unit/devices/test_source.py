"""Monochromator, shutter and ring, and what a detector sees of them."""

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.suspenders import SuspendFloor

from ptycho_bluesky.devices import simulated_beamline
from ptycho_bluesky.errors import DeviceError
from ptycho_bluesky.optics import diffraction, object_corners, propagator_for


@pytest.fixture(scope="module")
def beamline():
    return simulated_beamline(
        "foam", frame_size=64, field_m=(1e-6, 1e-6), stage_errors=None, speedup=1e6, photons_per_frame=1e7
    )


def measured(b):
    b.detector.trigger().wait(5)
    return b.detector.image.get().astype(float)


def test_no_light_behind_a_closed_shutter_or_without_beam(beamline):
    b = beamline
    full = measured(b).sum()
    b.shutter.set("closed").wait(5)
    assert b.shutter.read()["shutter"]["value"] == "closed" and measured(b).sum() == 0
    b.shutter.set("open").wait(5)
    b.ring.current.put(200.0)
    assert measured(b).sum() == pytest.approx(full / 2, rel=0.01)
    b.ring.current.put(0.0)
    assert measured(b).sum() == 0
    b.ring.current.put(400.0)
    assert measured(b).sum() == pytest.approx(full, rel=0.01)
    with pytest.raises(DeviceError, match="shutter was set to 'ajar'; allowed are 'open' and 'closed'"):
        b.shutter.set("ajar")


def test_a_suspender_waits_for_the_beam(beamline):
    engine = RunEngine({}, context_managers=[])
    suspender = SuspendFloor(beamline.ring.current, 50, resume_thresh=100, sleep=0)
    engine.install_suspender(suspender)
    beamline.ring.current.put(0.0)
    engine.loop.call_soon_threadsafe(engine.loop.call_later, 0.2, beamline.ring.current.put, 400.0)
    engine(bps.null())
    assert beamline.ring.current.get() == 400.0
    engine.remove_suspender(suspender)


def test_the_energy_changes_pixel_probe_and_sample(beamline):
    b = beamline
    nominal = measured(b)
    b.energy.set(9.2).wait(5)
    frame = measured(b)
    optics = b.detector.source.optics()
    geometry = b.metadata.geometry.model_copy(update={"energy_kev": 9.2})
    assert optics.pixel_size_m == pytest.approx(geometry.pixel_size_m(64))
    corner = object_corners(np.zeros((1, 2)), optics.obj.shape, 64, optics.pixel_size_m)
    expected = diffraction(
        optics.probe * np.float32(np.sqrt(1e7)), optics.obj, corner, propagator_for(None, "far-field", 64)
    )
    good = expected[0] > 5
    assert (((frame - expected[0]) ** 2)[good] / expected[0][good]).mean() == pytest.approx(1.0, abs=0.1)
    phase = [float(np.ptp(np.angle(o))) for o in (b.truth, optics.obj)]
    assert phase[1] / phase[0] == pytest.approx(8.8 / 9.2, rel=0.02)
    assert b.truth.shape[0] * b.metadata.geometry.pixel_size_m(64) == pytest.approx(
        optics.obj.shape[0] * optics.pixel_size_m, rel=0.01
    )
    b.energy.set(8.8).wait(5)
    assert np.corrcoef(measured(b).ravel(), nominal.ravel())[0, 1] > 0.99
    assert {"energy", "energy_setpoint"} == set(b.energy.read())
    with pytest.raises(Exception, match=r"energy was sent to 20 keV; its limits are 8 to 9\.6 keV"):
        b.energy.set(20.0)
