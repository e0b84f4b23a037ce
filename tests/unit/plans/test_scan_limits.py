import json

import pytest

from ptycho_bluesky.config import ScanLimits, settings
from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import BeamInfo, raster
from ptycho_bluesky.plans import estimate_scan, ptycho_scan

PATTERN = raster(0.8e-6, 0.8e-6, 0.2e-6)  # 25 points


@pytest.fixture
def b(flying_beamline):
    return flying_beamline


@pytest.fixture
def block(b):
    return b.metadata.model_copy(
        update={
            "exposure_s": 0.5,
            "beam": BeamInfo(flux_photons_s=2e9),
            "sample_mass_attenuation_m2_kg": 0.9,
            "probe_diameter_m": 1e-6,
        }
    )


def scan(b, block, **options):
    return ptycho_scan([b.detector], b.stage.y, b.stage.x, PATTERN, metadata=block, **options)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_seconds": 10}, "limits.max_seconds allows 10 s, the scan would take 1"),
        ({"max_data_bytes": 1000}, "limits.max_data_bytes allows 1000 bytes, the scan would take 2.048e+05 bytes"),
        ({"max_fluence_photons_m2": 1e20}, "limits.max_fluence_photons_m2 allows 1e+20 photons/m2"),
        ({"max_dose_gy": 1.0}, "limits.max_dose_gy allows 1 Gy, the scan would take"),
        ({"min_overlap": 0.9}, "at least 90% is required"),
        (ScanLimits(max_seconds=1), "allows 1 s"),
        ({"max_hours": 1}, "limits of the scan (1 fault): max_hours: Extra inputs are not permitted (given 1)"),
    ],
)
def test_a_scan_past_a_limit_is_refused_with_limit_and_value(b, block, engine, recorded, limits, text):
    with pytest.raises(PlanError) as caught:
        engine(scan(b, block, limits=limits))
    assert text in str(caught.value) and recorded == []


def test_a_limit_that_cannot_be_checked_refuses(b, block, engine):
    for change, limits, needed in (
        ({"beam": None}, {"max_dose_gy": 1e9}, "beam.flux_photons_s"),
        ({"exposure_s": None}, {"max_seconds": 1e9}, "metadata.exposure_s"),
        ({"probe_diameter_m": None}, {"max_fluence_photons_m2": 1e30}, "probe_diameter_m"),
    ):
        with pytest.raises(PlanError, match=f"cannot be told; give .*{needed}"):
            engine(scan(b, block.model_copy(update=change), limits=limits))


@pytest.mark.parametrize("where", ["environment", "file"])
def test_limits_of_the_settings_hold_where_none_are_given(b, block, engine, monkeypatch, tmp_path, where):
    if where == "file":
        (tmp_path / "settings.toml").write_text("[limits]\nmax_seconds = 1\n")
        monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(tmp_path / "settings.toml"))
    else:
        monkeypatch.setenv("PTYCHO_BLUESKY_LIMITS", json.dumps({"max_seconds": 1}))
    settings.cache_clear()
    try:
        with pytest.raises(PlanError, match=r"limits.max_seconds allows 1 s"):
            engine(scan(b, block))
        assert len(engine(scan(b, block, limits={}))) == 1
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def test_what_is_told_is_in_the_metadata_and_on_the_screen(b, block, engine, recorded, capsys):
    engine(scan(b, block))
    told = recorded.blocks[0]["estimate"]
    same = estimate_scan(PATTERN, block, frame_shape=(64, 64), velocity=b.stage.y.velocity.get() * 1e-6)
    assert told == {
        "seconds": pytest.approx(same.seconds),
        "photons": 25 * 1e9,
        "fluence_photons_m2": pytest.approx(25e9 / (1.8e-6) ** 2),
        "dose_gy": pytest.approx(25e9 / (1.8e-6) ** 2 * 8.8 * 1.602176634e-16 * 0.9),
        "data_bytes": 25 * 64 * 64 * 2,
    }
    assert same.dose_gy == told["dose_gy"]
    assert f"ptycho_scan: {same}" in capsys.readouterr().err


def test_a_fly_scan_is_told_by_its_period():
    pattern = raster(0.8e-6, 0.8e-6, 0.2e-6)
    block = {"frames_key": "f", "position_keys": ["y", "x"], "position_unit": "px"}
    flown = estimate_scan(pattern, block, exposure_s=0.001, period_s=0.002, turn_s=0.1)
    assert flown.seconds == pytest.approx(25 * 0.002 + 5 * 0.1) and flown.dose_gy is None
