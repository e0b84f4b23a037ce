import numpy as np
import pytest
from matplotlib.image import imread

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import fermat, snake
from ptycho_bluesky.plans import dry_run, ptycho_fly, ptycho_mosaic, ptycho_scan, ptycho_tomo

PATTERN = fermat(1e-6, 1e-6, 0.2e-6)


@pytest.fixture
def b(flying_beamline):
    return flying_beamline


@pytest.fixture
def untouched(b):
    """Fail where anything moved or was triggered."""
    before = [axis.setpoint.get() for axis in (b.stage.y, b.stage.x, b.stage.rotation)]
    original, b.detector.trigger = b.detector.trigger, lambda: pytest.fail("the detector was triggered")
    yield
    b.detector.trigger = original
    assert [axis.setpoint.get() for axis in (b.stage.y, b.stage.x, b.stage.rotation)] == before
    assert b.flyer.get_index() == 0 and b.detector._staged.value == "no"


def test_steps_and_flights_are_walked_through(b, untouched):
    signed = b.metadata.model_copy(update={"axis_signs": (-1, 1)})
    stepped = dry_run(ptycho_scan([b.detector], b.stage.y, b.stage.x, PATTERN, metadata=signed, return_to_start=True))
    np.testing.assert_allclose(stepped.scans[0].positions_m, PATTERN.positions, atol=1e-15)
    assert stepped.scans[0].metadata["plan_name"] == "ptycho_scan" and stepped.messages > 6 * len(PATTERN)
    flown = dry_run(ptycho_fly([b.detector], b.flyer, snake(1e-6, 1e-6, 0.2e-6), metadata=b.metadata, flight_frames=12))
    np.testing.assert_allclose(flown.scans[0].positions_m, snake(1e-6, 1e-6, 0.2e-6).positions, atol=1e-15)
    assert repr(flown) == f"<DryRun of 1 runs, 36 frames, {flown.messages} messages>"


def test_campaigns_tell_their_other_axes(b, untouched, capsys):
    tomo = dry_run(
        ptycho_tomo(
            [b.detector], b.stage.y, b.stage.x, b.stage.rotation, PATTERN, angles_deg=[0, 45], metadata=b.metadata
        )
    )
    assert len(tomo.scans) == 2 and len(tomo) == 2 * len(PATTERN)
    assert tomo.scans[1].moves[-1] == ("stage_rotation", 45.0)
    assert tomo.told[0].startswith("ptycho_tomo: 2 scans") and tomo.told[2] == "ptycho_tomo: 2 of 2, rotation_deg = 45"
    assert capsys.readouterr().err == ""


def test_the_picture_shows_the_way_and_what_is_seen(b, untouched, tmp_path):
    tile = {"name": "raster", "height_m": 0.6e-6, "width_m": 0.6e-6, "step_m": 0.2e-6}
    walked = dry_run(
        ptycho_mosaic(
            [b.detector], b.stage.y, b.stage.x, tile, height_m=1e-6, width_m=1e-6, metadata=b.metadata,
            tile_overlap_m=0.2e-6,
        ),
        save=tmp_path / "mosaic.png",
    )  # fmt: skip
    picture = imread(tmp_path / "mosaic.png")
    assert picture.shape[0] > 400 and picture[..., :3].std() > 0.1
    way, seen, _ = walked.draw().axes
    assert way.get_title() == "ptycho_mosaic: 4 runs, 64 frames; circle = begin" and len(way.lines) == 3 * 4
    counts = seen.images[0].get_array()
    area = counts.sum() * np.prod(np.ptp(np.reshape(seen.images[0].get_extent(), (2, 2)), axis=1) / counts.shape[::-1])
    assert area == pytest.approx(64 * np.pi / 4 * (b.metadata.probe_diameter_m * 1e6) ** 2, rel=0.03)
    assert way.get_ylim()[0] > way.get_ylim()[1]  # rows go down


def test_pixels_are_drawn_without_lengths(b):
    block = b.metadata.model_copy(update={"position_unit": "px", "geometry": None, "probe": None})
    plan = ptycho_scan([b.detector], b.stage.y, b.stage.x, PATTERN, metadata=block)
    figure = dry_run(plan).draw()
    assert figure.axes[0].get_xlabel() == "x (px)" and "not known" in figure.axes[1].get_title()


def test_a_scan_that_would_be_refused_is_refused(b):
    with pytest.raises(PlanError, match="stage_y leaves its limits"):
        dry_run(ptycho_scan([b.detector], b.stage.y, b.stage.x, fermat(9e-6, 9e-6, 1e-6), metadata=b.metadata))


def test_a_device_that_only_answers_asynchronously_is_not_asked(b):
    class Distant:
        name, parent = "distant", None

        async def check_value(self, value):
            pytest.fail("a dry run asked the hardware")

        async def describe(self):
            pytest.fail("a dry run asked the hardware")

        def set(self, value): ...

        def read(self): ...

    walked = dry_run(ptycho_scan([b.detector], Distant(), b.stage.x, PATTERN, metadata=b.metadata))
    assert len(walked) == len(PATTERN)


def test_nothing_to_draw(b):
    def nothing():
        yield from ()

    with pytest.raises(PlanError, match="nothing to draw"):
        dry_run(nothing()).draw()
