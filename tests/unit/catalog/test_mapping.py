"""Runs that other people's plans made, through a real RunEngine and a real Tiled server, to datasets."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd import Signal

from ptycho_bluesky.catalog import (
    Lookup,
    amend_run,
    amendments_of,
    block_of,
    dataset_from_run,
    mapping_from,
    mapping_template,
    tiled_writer,
    validate_run,
)
from ptycho_bluesky.devices import Beamline, simulated_beamline
from ptycho_bluesky.errors import CatalogError, DatasetError
from ptycho_bluesky.experiment import FlyPath, snake
from ptycho_bluesky.plans import ptycho_scan

GEOMETRY = {"energy_kev": 8.8, "distance_m": 0.95, "detector_pixel_m": 75e-6}
MAPPING: dict[str, Any] = {
    "frames_key": "detector_image",
    "position_keys": ["stage_y", "stage_x"],
    "position_unit": "um",
    "geometry": GEOMETRY,
}


@pytest.fixture(scope="module")
def b(tmp_path_factory: pytest.TempPathFactory) -> Beamline:
    folder = tmp_path_factory.mktemp("foreign")
    return simulated_beamline(frame_size=64, field_m=(1.5e-6, 1.5e-6), stage_errors=None, speedup=1e6, folder=folder)


@pytest.fixture
def measure(client: Any) -> Callable[[Any], Any]:
    """Return a function that runs a plan and gives the run as it is in the catalogue."""

    def run(plan: Any) -> Any:
        engine = RunEngine({}, context_managers=[])
        engine.subscribe(tiled_writer(client, batch_size=100, stop_wait_s=30))
        (uid,) = engine(plan)
        return client["raw"][uid]

    return run


def signals() -> dict[str, Signal]:
    return {"energy": Signal(name="dcm_energy", value=8800.0), "distance": Signal(name="det_dist", value=950.0)}


def test_a_grid_scan_whose_numbers_stand_in_the_run(b: Beamline, measure: Callable[[Any], Any], tmp_path: Path) -> None:
    s = b.stage
    plan = bp.grid_scan([b.detector], s.y, -0.2, 0.2, 3, s.x, -0.3, 0.3, 4, md={"scan": {"dist": 950.0, "who": "us"}})
    run = measure(bpp.baseline_wrapper(plan, list(signals().values())))
    with pytest.raises(DatasetError, match=r"no 'ptychography' block.*--amend"):
        dataset_from_run(run)
    text = """
    [ptychography]
    frames_key = "detector_image"
    position_keys = ["stage_y", "stage_x"]
    axis_signs = [-1, 1]
    exposure_s = { device = "detector", key = "detector_exposure_time" }
    detector_name = { start = "scan.who" }
    [ptychography.geometry]
    energy_kev = { key = "dcm_energy", stream = "baseline", scale = 0.001 }
    distance_m = { start = "scan.dist", scale = 0.001 }
    detector_pixel_m = 75e-6
    """
    (tmp_path / "mapping.toml").write_text(text)
    dataset = dataset_from_run(run, tmp_path / "mapping.toml")
    assert dataset.geometry is not None and dataset.geometry.energy_kev == pytest.approx(8.8)
    assert dataset.geometry.distance_m == pytest.approx(0.95) and len(dataset) == 12
    y, x = np.meshgrid([0.2, 0, -0.2], [-0.3, -0.1, 0.1, 0.3], indexing="ij")
    np.testing.assert_allclose(dataset.positions * 1e6, np.stack([y.ravel(), x.ravel()], 1), atol=1e-9)
    block = block_of(run, tmp_path / "mapping.toml")
    assert block.exposure_s == pytest.approx(0.05) and block.detector_name == "us"

    # Stored beside the run, every reader has it, and the raw run is as it was.
    before = dict(run.metadata)
    assert amend_run(run, tmp_path / "mapping.toml", "the plan was ours")["number"] == 1
    assert len(dataset_from_run(run)) == 12
    amend_run(run, {"axis_signs": [1, 1], "geometry": {"distance_m": 1.0}})
    again = dataset_from_run(run)
    assert again.geometry is not None and (again.geometry.distance_m, again.geometry.energy_kev) == (1.0, 8.8)
    np.testing.assert_allclose(again.positions[:, 0], -dataset.positions[:, 0])
    assert [a["reason"] for a in amendments_of(run)] == ["the plan was ours", ""]
    assert dict(run.parent[before["start"]["uid"]].metadata) == before
    check = validate_run(run)
    assert check.ok and check.amendments == 2 and check.frames == 12 and check.frame_shape == (64, 64)
    with pytest.raises(DatasetError, match="geometry is missing"):
        amend_run(run, {"geometry": None})
    assert len(amendments_of(run)) == 2


def test_a_template_says_what_can_be_guessed(b: Beamline, measure: Callable[[Any], Any], tmp_path: Path) -> None:
    s = b.stage
    plan = bp.rel_spiral([b.detector], s.x, s.y, 0.3, 0.3, 0.1, 6)
    run = measure(bpp.baseline_wrapper(plan, list(signals().values())))
    text = mapping_template(run)
    block = tomllib.loads(text)["ptychography"]
    assert block["frames_key"] == "detector_image" and block["position_keys"] == ["stage_y", "stage_x"]
    assert block["position_unit"] == "um" and block["exposure_s"]["device"] == "detector"
    assert block["geometry"]["energy_kev"]["key"] == "dcm_energy" and "check the scale" in text
    check = validate_run(run)
    assert not check.ok and "no 'ptychography' block" in check.needed[0]
    filled = text.replace('stream = "baseline" }', 'stream = "baseline", scale = 0.001 }')
    (tmp_path / "m.toml").write_text(filled)
    dataset = dataset_from_run(run, tmp_path / "m.toml")
    assert dataset.geometry is not None and dataset.geometry.energy_kev == pytest.approx(8.8)
    assert dataset.geometry.distance_m == pytest.approx(0.95)
    assert 0 < np.ptp(dataset.positions, axis=0).max() < 0.4e-6
    assert "position_source: encoder, readback or setpoint" in validate_run(run, tmp_path / "m.toml").wished


def test_a_template_of_a_run_that_tells_keeps_what_it_tells(b: Beamline, measure: Callable[[Any], Any]) -> None:
    said = b.metadata.model_copy(update={"axis_signs": (-1, 1)})
    run = measure(ptycho_scan([b.detector], b.stage.y, b.stage.x, snake(3e-7, 3e-7, 1e-7), metadata=said))
    amend_run(run, {"geometry": {"distance_m": 1.93}}, "measured again")
    text = mapping_template(run)
    block = tomllib.loads(text)["ptychography"]
    assert block["axis_signs"] == [-1, 1] and block["geometry"]["distance_m"] == 1.93
    assert block["geometry"]["energy_kev"] == pytest.approx(8.8) and "FILL IN" not in text
    assert "# geometry.beam_center_px: " in text  # what would be good to know
    assert block["position_keys"] == list(said.position_keys) and block["exposure_s"] == said.exposure_s


def test_a_list_scan_in_object_pixels(b: Beamline, measure: Callable[[Any], Any]) -> None:
    s = b.stage
    run = measure(bp.list_scan([b.detector], s.y, [0.0, 0.1, 0.2], s.x, [0.3, 0.0, 0.1]))
    dataset = dataset_from_run(run, {**MAPPING, "position_unit": "px", "geometry": None})
    assert dataset.pixel_size_m is None
    np.testing.assert_allclose(dataset.positions, [[0, 0.3], [0.1, 0], [0.2, 0.1]], atol=1e-9)


def test_a_flyer_in_somebody_elses_plan_and_stream(b: Beamline, measure: Callable[[Any], Any]) -> None:
    pattern = snake(0.4e-6, 0.4e-6, 0.2e-6)
    path = FlyPath(pattern.positions * 1e6, 1e-3, 1e-3, pattern.lines)

    @bpp.stage_decorator([b.detector, b.flyer])
    @bpp.run_decorator(md={"plan_name": "fly2d"})
    def fly() -> Any:
        from ophyd_async.core import DetectorTrigger, TriggerInfo

        info = TriggerInfo(number_of_events=9, trigger=DetectorTrigger.EXTERNAL_EDGE, livetime=1e-3, deadtime=0)
        yield from bps.prepare(b.detector, info, wait=True)
        yield from bps.prepare(b.flyer, path, wait=True)
        yield from bps.declare_stream(b.detector, b.flyer, name="fly", collect=True)
        yield from bps.kickoff_all(b.detector, b.flyer, wait=True)
        yield from bps.collect_while_completing([b.flyer, b.detector], [b.detector, b.flyer], 0.05, "fly")

    run = measure(fly())
    assert tomllib.loads(mapping_template(run))["ptychography"]["frames_stream"] == "fly"
    dataset = dataset_from_run(run, {**MAPPING, "frames_stream": "fly"})
    np.testing.assert_allclose(dataset.positions, pattern.positions, atol=1e-10)
    assert dataset.frames.shape == (9, 64, 64) and np.asarray(dataset.frames[8:9]).sum() > 0


def test_rows_of_frames_in_each_event(b: Beamline, measure: Callable[[Any], Any]) -> None:
    images, y, x = (Signal(name=n, value=np.zeros(1)) for n in ("det_images", "enc_y", "enc_x"))
    rng = np.random.default_rng(0)
    frames = rng.poisson(9, (3, 5, 16, 16)).astype(np.uint16)
    rows, columns = (a.astype(float) for a in np.mgrid[:3, :5])

    @bpp.run_decorator(md={"plan_name": "fly_rows"})
    def fly() -> Any:
        for k in range(3):
            for signal, value in ((images, frames[k]), (y, rows[k]), (x, columns[k])):
                yield from bps.abs_set(signal, value)
            yield from bps.create("primary")
            for signal in (images, y, x):
                yield from bps.read(signal)
            yield from bps.save()

    run = measure(fly())
    assert tomllib.loads(mapping_template(run))["ptychography"]["frames_per_event"] == 5
    mapping = {**MAPPING, "frames_key": "det_images", "position_keys": ["enc_y", "enc_x"], "frames_per_event": 5}
    dataset = dataset_from_run(run, mapping)
    np.testing.assert_array_equal(dataset.frames[0:15], frames.reshape(15, 16, 16))
    np.testing.assert_array_equal(dataset.frames[3:12:2], frames.reshape(15, 16, 16)[3:12:2])
    np.testing.assert_allclose(dataset.positions * 1e6, np.stack([rows.ravel(), columns.ravel()], 1))
    with pytest.raises(CatalogError, match="frames_per_event"):
        dataset_from_run(run, {**mapping, "frames_per_event": 1})


def test_positions_of_another_stream_are_taken_by_time(b: Beamline, measure: Callable[[Any], Any]) -> None:
    image = Signal(name="cam", value=np.ones((16, 16), np.uint16))
    y, x = Signal(name="enc_y", value=0.0), Signal(name="enc_x", value=0.0)

    @bpp.run_decorator(md={"plan_name": "own_fly"})
    def fly() -> Any:
        for k in range(7):
            yield from bps.abs_set(y, float(k))
            yield from bps.abs_set(x, 2.0 * k)
            yield from bps.trigger_and_read([y, x], "encoders")
            if 0 < k < 6:
                yield from bps.trigger_and_read([image], "primary")

    run = measure(fly())
    mapping = {**MAPPING, "frames_key": "cam", "position_keys": ["enc_y", "enc_x"], "positions_stream": "encoders"}
    dataset = dataset_from_run(run, mapping)
    assert len(dataset) == 5
    assert (np.diff(dataset.positions[:, 0]) > 0).all()
    np.testing.assert_allclose(dataset.positions[:, 1], 2 * dataset.positions[:, 0])
    assert ((dataset.positions[:, 0] * 1e6 > np.arange(1, 6) - 1e-9) & (dataset.positions[:, 0] < 6e-6)).all()


class Fake:
    metadata: dict[str, Any] = {"start": {"uid": "abcdefghi", "scan": {"dist": 1.5, "text": "high", "bad": None}}}  # noqa: RUF012

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("lookup", "text"),
    [
        ({}, "give either key"),
        ({"key": "a", "start": "b"}, "give either key"),
        ({"start": "scan.angle"}, r"stops at 'angle'; there are \['bad', 'dist', 'text'\]"),
        ({"start": "scan.dist.deep"}, "no more keys"),
        ({"start": "scan.bad"}, "a finite number is needed"),
        ({"key": "energy"}, "no stream 'primary'"),
        ({"start": "scan.dist", "reduce": "sum"}, "reduce"),
    ],
)
def test_a_lookup_that_finds_nothing_says_what_there_is(lookup: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, CatalogError), match=text):
        Lookup.model_validate(lookup).value(Fake())


def test_lookups_scale_numbers_and_leave_text() -> None:
    assert Lookup(start="scan.dist", scale=10, offset=1).value(Fake()) == 16.0
    assert Lookup(start="scan.text").value(Fake()) == "high"


def test_every_fault_of_a_mapping_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"mapping of run abcdefgh \(2 faults\): geometry.energy_kev.*exposure_s"):
        dataset_from_run(
            Fake(), {**MAPPING, "geometry": {**GEOMETRY, "energy_kev": {"start": "e"}}, "exposure_s": {"key": "t"}}
        )
    with pytest.raises(DatasetError, match=r"unknown keys \['energy'\]; allowed are version, frames_key"):
        mapping_from({"energy": 9})
    for text, said in (
        ("[ptychography", "cannot be read"),
        ("[other]", "one table"),
        ("ptychography = 3", "one table"),
    ):
        (tmp_path / "m.toml").write_text(text)
        with pytest.raises(DatasetError, match=said):
            mapping_from(tmp_path / "m.toml")
    with pytest.raises(DatasetError, match="cannot be read"):
        mapping_from(tmp_path / "none.toml")
    with pytest.raises(CatalogError, match="stored beside a run in Tiled"):
        amend_run(Fake(), MAPPING)
