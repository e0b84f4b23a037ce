import time

import pytest
from bluesky import RunEngine

from ptycho_bluesky.devices import simulated_beamline
from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import PtychographyMetadata, from_positions, raster
from ptycho_bluesky.plans import estimate_scan, ptycho_scan

PIXELS = PtychographyMetadata(frames_key="d", position_keys=("y", "x"), position_unit="px", exposure_s=0.1)


def test_what_is_missing_or_wrong():
    pattern = raster(1e-6, 1e-6, 1e-7)
    with pytest.raises(PlanError, match="the exposure is not known; give exposure_s"):
        estimate_scan(pattern, PIXELS.model_copy(update={"exposure_s": None}))
    with pytest.raises(PlanError, match=r"2 faults.*velocity is 0.*exposure_s is -1"):
        estimate_scan(pattern, PIXELS, exposure_s=-1, velocity=0)


def test_numbers():
    metadata = PIXELS.model_copy(update={"position_unit": "um", "probe_diameter_m": 1e-6})
    e = estimate_scan(
        raster(2e-6, 2e-6, 0.5e-6),
        metadata,
        photons_per_frame=1e6,
        frame_shape=(128, 128),
        velocity=1e-6,
        overhead_s=0.0,
    )
    assert (e.points, e.photons, e.data_bytes) == (25, 25e6, 25 * 128 * 128 * 2)
    assert e.overlap == pytest.approx(0.5) and e.fluence_photons_m2 == pytest.approx(25e6 / 9e-12)
    assert e.seconds == pytest.approx(25 * 0.1 + (20 * 0.5e-6 + 4 * 2e-6) / 1e-6)
    assert (
        str(e)
        == "25 points over 2 x 2 um, step 0.5 um, 20.5 s, overlap 50%, 2.5e+07 photons, 2.8e+06 photons/um^2, 0.8192 MB"
    )


def test_pixels_and_little_known():
    e = estimate_scan(from_positions([[0, 0], [3, 4]]), PIXELS, overhead_s=60)
    assert (e.overlap, e.photons, e.fluence_photons_m2, e.data_bytes, e.unit) == (None, None, None, None, "px")
    assert str(e) == "2 points over 3 x 4 px, step 5 px, 2 min 0.2 s"


def test_one_point():
    assert estimate_scan(from_positions([[0, 0]]), PIXELS).points == 1


def test_estimated_and_real_time_agree():
    b = simulated_beamline(frame_size=64, field_m=(0.8e-6, 0.8e-6), exposure_s=0.02, speedup=1.0)
    e = estimate_scan(b.pattern, b.metadata, velocity=200e-6, settling_time_s=0.005)
    began = time.monotonic()
    RunEngine({}, context_managers=[])(ptycho_scan([b.detector], b.stage.y, b.stage.x, b.pattern, metadata=b.metadata))
    seconds = time.monotonic() - began
    assert 0.025 * len(b.pattern) < seconds < 4 * e.seconds  # never faster than exposure and settling
