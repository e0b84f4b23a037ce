import asyncio

import numpy as np
import pytest
from bluesky import RunEngine

from ptycho_bluesky.devices import simulated_beamline
from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import ProbeInfo, fermat, from_positions, raster
from ptycho_bluesky.plans import metadata_from, pattern_from, ptycho_scan


@pytest.fixture(scope="module")
def beamline():
    return simulated_beamline(frame_size=64, field_m=(1e-6, 1e-6), stage_errors=None, speedup=1e6)


@pytest.fixture
def refused(beamline):
    """Run a scan that must be refused; return its text, and be sure that nothing moved and no document was made."""

    def run(*, detectors=None, y=None, x=None, pattern=None, metadata=None, **changes):
        engine, documents = RunEngine({}, context_managers=[]), []
        engine.subscribe(lambda name, _: documents.append(name))
        b, moved = beamline, []
        axes = [b.stage.y if y is None else y, b.stage.x if x is None else x]
        for axis in (b.stage.y, b.stage.x):
            axis.subscribe(lambda **_: moved.append(1), event_type=axis.SUB_READBACK, run=False)
        options = {key: changes.pop(key) for key in ("md", "min_overlap") if key in changes}
        metadata = metadata or b.metadata.model_copy(update=changes)
        plan = ptycho_scan(
            [b.detector] if detectors is None else detectors, *axes, pattern or b.pattern, metadata=metadata, **options
        )
        with pytest.raises(PlanError) as caught:
            engine(plan)
        assert documents == [] and moved == [] and engine.state == "idle"
        return str(caught.value)

    return run


def test_all_faults_come_at_once(refused):
    text = refused(geometry=None, frames_key="eiger_image", pattern=fermat(40e-6, 3e-6, 2e-6))
    assert text.startswith("scan refused, nothing has moved (")
    for part in ("geometry is missing", "overlap by 0%", "stage_y leaves its limits", "frames_key is 'eiger_image'"):
        assert part in text


def test_missing_energy(refused):
    text = refused(geometry=None, probe=None)
    assert "geometry is missing (energy_kev, distance_m, detector_pixel_m) but positions are in um" in text


def test_pixels_although_lengths_are_known(refused):
    assert "position_unit is 'px' although the geometry is known" in refused(
        position_unit="px", pattern=from_positions([[0, 0]])
    )


def test_probe_file_without_address(refused):
    assert "probe.kind is 'file' but probe.uri is missing" in refused(probe=ProbeInfo(kind="file"))


def test_limits_name_axis_span_and_count(refused, beamline):
    low, high = beamline.stage.x.limits
    text = refused(pattern=raster(0.2e-6, 4e-6, 0.2e-6))
    assert f"stage_x leaves its limits: the pattern spans -2 to 2 um, allowed is {low:.4g} to {high:.4g} um" in text
    assert "of 42 positions are outside" in text and "stage_y leaves" not in text


def test_a_device_that_refuses_a_position(refused, beamline):
    class Fussy:
        name, parent = "fussy", None

        async def check_value(self, value):
            await asyncio.sleep(0)
            if value > 0:
                raise ValueError("the shutter is in the way")

        async def describe(self):
            return {"stage_y": {"shape": [], "dtype": "number", "source": "x"}}

        def set(self, value): ...

        def read(self): ...

    assert "fussy refuses 0.4 um: the shutter is in the way" in refused(
        y=Fussy(), pattern=raster(0.8e-6, 0.4e-6, 0.2e-6)
    )


def test_too_little_overlap(refused, beamline):
    pattern = raster(1.2e-6, 1.2e-6, 0.6e-6)
    text = refused(pattern=pattern)
    assert "neighbouring probes overlap by 3" in text and "at least 40% is required: a step of 0.53" in text
    assert "min_overlap=None for no check" in text
    assert "at least 90% is required" in refused(min_overlap=0.9)


def test_overlap_is_not_checked_where_told_or_not_known(beamline):
    engine, events = RunEngine({}, context_managers=[]), []
    engine.subscribe(lambda _, doc: events.append(doc), "event")
    b, pattern = beamline, raster(1e-6, 1e-6, 1e-6)
    axes = [b.detector], b.stage.y, b.stage.x, pattern
    engine(ptycho_scan(*axes, metadata=b.metadata, min_overlap=None))
    engine(ptycho_scan(*axes, metadata=b.metadata.model_copy(update={"probe_diameter_m": None})))
    assert len(events) == 8


def test_keys_that_no_device_delivers(refused):
    text = refused(position_keys=("stage_y", "piezo_x"))
    assert "position_keys[1] is 'piezo_x', but stage_x delivers no such key; there are detector_image" in text
    assert "frames_key 'detector_total' is no image: its shape is []" in refused(frames_key="detector_total")


def test_devices_of_the_wrong_kind(refused, beamline):
    assert "there is no detector" in refused(detectors=[])
    assert "y is 'stage_y', which cannot be moved" in refused(y="stage_y")
    assert "y and x are the same device, stage_x" in refused(y=beamline.stage.x)
    assert "detector 'eiger' cannot be read" in refused(detectors=["eiger"])


def test_a_detector_that_cannot_describe_itself(refused):
    class Broken:
        name, parent = "broken", None

        def describe(self):
            raise ConnectionError("no answer")

        def read(self): ...

    assert "broken cannot tell its data keys: ConnectionError: no answer" in refused(detectors=[Broken()])


def test_md_must_not_hold_the_block(refused):
    assert "md has the key 'ptychography'" in refused(md={"ptychography": {}})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"name": "circle"}, "pattern.name is 'circle'; allowed are concentric, fermat, lissajous, list"),
        ({"name": "fermat", "step_m": 1e-7}, "missing a required argument: 'height_m'; its arguments are"),
        ({"name": "raster", "height_m": 1, "width_m": 1, "step": 1}, "its arguments are height_m, width_m, step_m"),
        ({"name": "raster", "height_m": 1.0, "width_m": 1.0, "step_m": 1.0, "center_m": 3}, "center_m"),
        ({"name": "raster", "height_m": 1.0, "width_m": 1.0, "step_m": 0.0}, "step_m is 0.0; it must be above 0"),
        ("fermat", "pattern is 'fermat'; allowed is a ScanPattern"),
    ],
)
def test_patterns_from_plain_values(given, text):
    with pytest.raises(PlanError, match=text.replace("(", r"\(")):
        pattern_from(given)


def test_plain_values_that_are_right(beamline):
    made = pattern_from({"name": "snake", "height_m": 1e-6, "width_m": 2e-6, "step_m": 1e-7, "center_m": [1e-6, 0]})
    assert made.snaking and made.positions[:, 0].mean() == pytest.approx(1e-6)
    listed = pattern_from({"name": "list", "positions_m": [[0, 0], [1e-6, 2e-6]]})
    assert np.allclose(listed.positions, [[0, 0], [1e-6, 2e-6]])
    assert metadata_from(beamline.metadata.to_start()) == beamline.metadata
    with pytest.raises(PlanError, match=r"frames_key: .*; colour: Extra inputs"):
        metadata_from({"position_keys": ("y", "x"), "colour": "red"})
