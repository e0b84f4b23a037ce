import threading
import time

import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted

from ptycho_bluesky.devices import SimulatedAxis
from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import BeamInfo, PtychographyMetadata
from ptycho_bluesky.plans import (
    ptycho_energies,
    ptycho_focus,
    ptycho_mosaic,
    ptycho_series,
    ptycho_tomo,
    tile_centers,
)

SMALL = {"name": "snake", "height_m": 0.2e-6, "width_m": 0.4e-6, "step_m": 0.2e-6}  # 2 lines of 3


@pytest.fixture
def b(flying_beamline):
    return flying_beamline


@pytest.fixture
def axis():
    made = SimulatedAxis(name="focus", egu="um", limits=(-500.0, 500.0))
    made.speedup.put(1e6)
    return made


def scanned(b):
    return [b.detector], b.stage.y, b.stage.x


@pytest.mark.parametrize("fly", [False, True])
def test_a_tomogram_is_a_run_a_view(b, engine, recorded, fly):
    flyer = {"flyer": b.flyer, "exposure_s": 0.001} if fly else {}
    uids = engine(
        ptycho_tomo(*scanned(b), b.stage.rotation, SMALL, angles_deg=[0, 60, 120], metadata=b.metadata, **flyer)
    )
    starts, blocks = recorded.of("start"), recorded.blocks
    assert uids == tuple(s["uid"] for s in starts) and len(uids) == 3
    assert {s["plan_name"] for s in starts} == {"ptycho_tomo"}
    assert [block["rotation_deg"] for block in blocks] == [0, 60, 120]
    assert [(c["index"], c["value"], c["count"], c["axis"]) for c in (block["campaign"] for block in blocks)] == [
        (0, 0.0, 3, "rotation_deg"),
        (1, 60.0, 3, "rotation_deg"),
        (2, 120.0, 3, "rotation_deg"),
    ]
    assert len({block["campaign"]["uid"] for block in blocks}) == 1
    assert all(stop["num_events"] == {"primary": 6} for stop in recorded.of("stop"))
    assert b.stage.rotation.position == pytest.approx(120)
    PtychographyMetadata.from_start(starts[0])


def test_an_aborted_tomogram_goes_on_as_the_same_campaign(b, engine, recorded):
    block = b.metadata.model_copy(update={"campaign": {"uid": "the-first", "sample": "chip"}})
    engine(ptycho_tomo(*scanned(b), b.stage.rotation, SMALL, angles_deg=[0, 1, 2], metadata=block, first_index=2))
    (only,) = recorded.blocks
    assert only["campaign"] == {
        "uid": "the-first",
        "sample": "chip",
        "axis": "rotation_deg",
        "index": 2,
        "value": 2.0,
        "count": 3,
    }


def test_all_views_are_checked_before_the_first(b, engine, recorded):
    with pytest.raises(PlanError) as caught:
        engine(ptycho_tomo(*scanned(b), b.stage.rotation, SMALL, angles_deg=[0, 400], metadata=b.metadata))
    assert "ptycho_tomo refused, nothing has moved" in str(caught.value) and "leaves its limits" in str(caught.value)
    for plan, text in (
        (ptycho_tomo(*scanned(b), "theta", SMALL, angles_deg=[0], metadata=b.metadata), "rotation is 'theta'"),
        (ptycho_tomo(*scanned(b), b.stage.rotation, SMALL, angles_deg=[], metadata=b.metadata), "nothing to measure"),
        (
            ptycho_tomo(
                *scanned(b),
                b.stage.rotation,
                SMALL,
                angles_deg=[0, 1],
                metadata=b.metadata,
                limits={"max_seconds": 0.5},
            ),
            "limits.max_seconds allows 0.5 s",
        ),
        (
            ptycho_tomo(*scanned(b), b.stage.rotation, SMALL, angles_deg=[0, 1], metadata=b.metadata, first_index=2),
            "first_index is 2; allowed is 0 to 1",
        ),
        (ptycho_series(*scanned(b), SMALL, count=0, metadata=b.metadata), "nothing to measure"),
        (ptycho_series(*scanned(b), SMALL, count=2, interval_s=-1, metadata=b.metadata), "interval_s is -1"),
    ):
        with pytest.raises(PlanError, match=text):
            engine(plan)
    assert recorded == []


def test_the_dose_of_views_adds_up(b, engine, recorded):
    block = b.metadata.model_copy(
        update={"beam": BeamInfo(flux_photons_s=1e9), "sample_mass_attenuation_m2_kg": 1.0, "exposure_s": 0.01}
    )
    engine(ptycho_tomo(*scanned(b), b.stage.rotation, SMALL, angles_deg=[0], metadata=block))
    dose = recorded.blocks[0]["estimate"]["dose_gy"]
    assert dose > 0
    twice = {"angles_deg": [0, 1], "metadata": block}
    with pytest.raises(PlanError, match="max_dose_gy"):
        engine(ptycho_tomo(*scanned(b), b.stage.rotation, SMALL, **twice, limits={"max_dose_gy": 1.5 * dose}))
    engine(ptycho_tomo(*scanned(b), b.stage.rotation, SMALL, **twice, limits={"max_dose_gy": 2.1 * dose}))


def test_energies_go_into_the_geometry_and_the_optics_follow(b, engine, recorded, axis):
    energy = SimulatedAxis(name="energy", egu="eV", limits=(5000.0, 20000.0))
    energy.speedup.put(1e6)
    visited = []
    axis.subscribe(lambda value, **_: visited.append(float(value)), event_type=axis.SUB_READBACK, run=False)
    options = {"energies_kev": [8.7, 8.9], "metadata": b.metadata, "energy_unit": "eV"}
    engine(ptycho_energies(*scanned(b), energy, SMALL, **options, focus=axis, focus_positions=[-5.0, 5.0]))
    assert [block["geometry"]["energy_kev"] for block in recorded.blocks] == [8.7, 8.9]
    assert energy.position == pytest.approx(8900) and visited == pytest.approx([-5, 5])
    with pytest.raises(PlanError, match="focus and focus_positions go together"):
        engine(ptycho_energies(*scanned(b), energy, SMALL, **options, focus=axis))
    with pytest.raises(PlanError, match="energy leaves its limits"):
        engine(ptycho_energies(*scanned(b), energy, SMALL, energies_kev=[8.7], metadata=b.metadata))


def test_defocus_goes_into_the_probe(b, engine, recorded, axis):
    engine(
        ptycho_focus(
            *scanned(b), axis, SMALL, defoci_m=[300e-6, 250e-6], metadata=b.metadata, focus_zero=10.0, focus_sign=-1
        )
    )
    first, second = recorded.blocks
    assert first["probe"]["defocus_m"] == 300e-6 and first["probe_diameter_m"] == b.metadata.probe_diameter_m
    assert second["probe"]["defocus_m"] == 250e-6 and second["probe_diameter_m"] is None
    assert axis.position == pytest.approx(10 - 250)
    with pytest.raises(PlanError, match="focus leaves its limits"):
        engine(ptycho_focus(*scanned(b), axis, SMALL, defoci_m=[1e-3], metadata=b.metadata))


def test_a_series_keeps_its_time(b, engine, recorded):
    engine(ptycho_series(*scanned(b), SMALL, count=3, interval_s=0.2, metadata=b.metadata))
    begun = [s["time"] for s in recorded.of("start")]
    assert np.diff(begun) == pytest.approx([0.2, 0.2], abs=0.08)
    assert [block["campaign"]["value"] for block in recorded.blocks] == pytest.approx([0, 0.2, 0.4])
    began = time.monotonic()
    engine(ptycho_series(*scanned(b), SMALL, count=2, metadata=b.metadata))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("area", "tile", "overlap"), [((10, 10), (4, 4), 1), ((3, 20), (4, 5), 0.5), ((4, 4), (4, 4), 1)]
)
def test_tiles_cover_the_area(area, tile, overlap):
    tiles = tile_centers(area, tile, overlap)
    y, x = (np.unique([t[k] for t in tiles]) for k in (2, 3))
    for centers, side, whole in ((y, tile[0], area[0]), (x, tile[1], area[1])):
        assert centers[0] - side / 2 <= -whole / 2 + 1e-9 and centers[-1] + side / 2 >= whole / 2 - 1e-9
        assert (np.diff(centers) <= side - overlap + 1e-9).all()
    steps = np.abs(np.diff([(t[0], t[1]) for t in tiles], axis=0)).sum(axis=1)
    assert (steps == 1).all()  # a snake


def test_a_mosaic_by_the_scanning_axes(b, engine, recorded):
    tile = {"name": "raster", "height_m": 0.4e-6, "width_m": 0.4e-6, "step_m": 0.2e-6}
    engine(
        ptycho_mosaic(
            *scanned(b), tile, height_m=0.7e-6, width_m=0.4e-6, metadata=b.metadata, tile_overlap_m=0.1e-6,
            center_m=[0.05e-6, 0.0],
        )
    )  # fmt: skip
    assert [
        (c["axis"], c["index"], c["row"], c["column"]) for c in (block["campaign"] for block in recorded.blocks)
    ] == [
        ("tile", 0, 0, 0),
        ("tile", 1, 1, 0),
    ]
    rows = np.array([e["data"]["stage_y"] for e in recorded.of("event")])
    assert rows.min() == pytest.approx(-0.3) and rows.max() == pytest.approx(0.4)
    assert recorded.blocks[1]["pattern"]["parameters"]["center_m"] == pytest.approx([0.2e-6, 0])


def test_a_mosaic_by_coarse_axes(b, engine, recorded, axis):
    other = SimulatedAxis(name="coarse_x", egu="mm", limits=(-1.0, 1.0))
    other.speedup.put(1e6)
    tile = {"name": "raster", "height_m": 0.4e-6, "width_m": 0.4e-6, "step_m": 0.2e-6}
    options = {"height_m": 0.4e-6, "width_m": 0.7e-6, "metadata": b.metadata, "tile_overlap_m": 0.1e-6}
    engine(ptycho_mosaic(*scanned(b), tile, **options, coarse_y=axis, coarse_x=other, coarse_signs=[1, -1]))
    offsets = [block["position_offset_m"] for block in recorded.blocks]
    np.testing.assert_allclose(offsets, [[0, -0.15e-6], [0, 0.15e-6]], atol=1e-15)
    assert other.position == pytest.approx(-0.15)
    for change, text in (
        ({"coarse_y": axis}, "both coarse axes"),
        ({"tile_overlap_m": 1e-6}, "tile_overlap_m is 1e-06"),
        ({"height_m": 5.0}, "below 1 m"),
        ({"coarse_y": axis, "coarse_x": other, "coarse_unit": "inch"}, "coarse_unit is 'inch'"),
    ):
        with pytest.raises(PlanError, match=text):
            engine(ptycho_mosaic(*scanned(b), tile, **options | change))


@pytest.mark.parametrize("where", ["stop", "start", "event"])
@pytest.mark.parametrize("fly", [False, True])
def test_a_campaign_may_be_paused_anywhere(b, engine, recorded, where, fly):
    seen = []

    def pause(_, doc):
        seen.append(doc)
        if len(seen) == 1:
            threading.Thread(target=engine.request_pause).start()
            time.sleep(0.05)

    engine.subscribe(pause, "stream_datum" if fly and where == "event" else where)
    flyer = {"flyer": b.flyer, "exposure_s": 0.001} if fly else {}
    with pytest.raises(RunEngineInterrupted):
        engine(ptycho_tomo(*scanned(b), b.stage.rotation, SMALL, angles_deg=[0, 60, 120], metadata=b.metadata, **flyer))
    engine.resume()
    assert [block["rotation_deg"] for block in recorded.blocks] == [0, 60, 120]
    assert [stop["num_events"] for stop in recorded.of("stop")] == [{"primary": 6}] * 3
