import inspect
from collections.abc import Sequence

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.preprocessors import baseline_wrapper
from bluesky.protocols import Movable, Readable
from event_model import DocumentNames, schema_validators

from ptycho_bluesky.devices import replay_beamline, simulated_beamline
from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import PtychoDataset, PtychographyMetadata, fermat, raster, snake
from ptycho_bluesky.plans import device_positions, move_and_read, ptycho_scan


@pytest.fixture
def beamline():
    return simulated_beamline(frame_size=64, field_m=(1.5e-6, 1.5e-6), stage_errors=None, speedup=1e6)


def run(plan):
    engine, documents = RunEngine({}, context_managers=[]), []
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    (uid,) = engine(plan)
    return uid, documents


def of(documents, wanted):
    return [doc for name, doc in documents if name == wanted]


def test_a_whole_scan(beamline):
    b = beamline
    uid, documents = run(
        ptycho_scan([b.detector], b.stage.y, b.stage.x, b.pattern, metadata=b.metadata, md={"sample": "star"})
    )
    (start,), (stop,), events = of(documents, "start"), of(documents, "stop"), of(documents, "event")
    n = len(b.pattern)
    assert start["uid"] == uid and stop["exit_status"] == "success" and stop["num_events"] == {"primary": n}
    assert [e["seq_num"] for e in events] == list(range(1, n + 1))
    measured = np.array([(e["data"]["stage_y"], e["data"]["stage_x"]) for e in events])
    assert np.allclose(measured * 1e-6, b.pattern.positions, atol=1e-12)
    assert (start["plan_name"], start["num_points"], start["num_intervals"]) == ("ptycho_scan", n, n - 1)
    assert (
        start["motors"] == ("stage_y", "stage_x") and start["detectors"] == ["detector"] and start["sample"] == "star"
    )
    assert start["hints"] == {"dimensions": [(["stage_y"], "primary"), (["stage_x"], "primary")]}
    block = PtychographyMetadata.from_start(start)
    assert block.pattern.num_points == n and block.pattern.name == "fermat"
    assert block.pattern.overlap == pytest.approx(b.pattern.overlap(b.metadata.probe_diameter_m))
    assert block.model_copy(update={"pattern": None, "estimate": None}) == b.metadata
    assert not b.stage.moving and b.detector._staged.value == "no"


def test_documents_are_valid_and_plain(beamline):
    b = beamline
    _, documents = run(ptycho_scan([b.detector], b.stage.y, b.stage.x, raster(2e-7, 2e-7, 2e-7), metadata=b.metadata))
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    (start,) = of(documents, "start")
    assert start["plan_args"]["pattern"] == {"name": "raster", "height_m": 2e-7, "width_m": 2e-7, "step_m": 2e-7}


@pytest.mark.parametrize(("make", "snaking"), [(raster, False), (snake, True)])
def test_grids_tell_their_shape(beamline, make, snaking):
    b = beamline
    pattern = make(0.4e-6, 0.6e-6, 0.2e-6)
    signed = b.metadata.model_copy(update={"axis_signs": (-1, 1)})
    _, documents = run(ptycho_scan([b.detector], b.stage.y, b.stage.x, pattern, metadata=signed))
    (start,) = of(documents, "start")
    assert start["shape"] == (3, 4) and start["snaking"] == (False, snaking)
    assert start["hints"]["gridding"] == "rectilinear"
    assert np.allclose(start["extents"], [[0.2, -0.2], [-0.3, 0.3]])


@pytest.mark.parametrize(("unit", "factor"), [("um", 1e6), ("mm", 1e3), ("nm", 1e9), ("m", 1.0), ("px", 1.0)])
def test_units_and_signs(beamline, unit, factor):
    pattern = fermat(1e-6, 1e-6, 2e-7)
    block = beamline.metadata.model_copy(update={"position_unit": unit, "axis_signs": (1, -1)})
    assert np.allclose(device_positions(pattern, block), pattern.positions * (factor, -factor))


def test_a_custom_step_and_more_readings(beamline):
    b, visited = beamline, []

    def twice(detectors, step, pos_cache):
        visited.append(tuple(step.values()))
        yield from move_and_read(detectors, step, pos_cache)
        yield from move_and_read(detectors, step, pos_cache)

    pattern = raster(2e-7, 2e-7, 2e-7)
    plan = ptycho_scan(
        [b.detector, b.stage.rotation], b.stage.y, b.stage.x, pattern, metadata=b.metadata, per_step=twice
    )
    _, documents = run(baseline_wrapper(plan, [b.stage.rotation]))
    events = of(documents, "event")
    assert len(visited) == 4 and len(events) == 8 + 2
    assert "twice" in of(documents, "start")[0]["plan_args"]["per_step"]


def test_an_axis_that_is_there_is_not_moved(beamline):
    b, moves = beamline, []
    original = b.stage.y.set
    b.stage.y.set = lambda value, **kwargs: (moves.append(value), original(value, **kwargs))[1]
    run(ptycho_scan([b.detector], b.stage.y, b.stage.x, raster(2e-7, 8e-7, 2e-7), metadata=b.metadata))
    assert np.allclose(moves, [-0.1, 0.1])


def test_return_to_start(beamline):
    b = beamline
    b.stage.y.set(0.11).wait(1)
    run(ptycho_scan([b.detector], b.stage.y, b.stage.x, b.pattern, metadata=b.metadata, return_to_start=True))
    assert (b.stage.y.position, b.stage.x.position) == (pytest.approx(0.11), pytest.approx(0))
    run(ptycho_scan([b.detector], b.stage.y, b.stage.x, b.pattern, metadata=b.metadata))
    assert b.stage.x.position == pytest.approx(b.pattern.positions[-1, 1] * 1e6)


def test_plain_values_are_enough(beamline):
    b = beamline
    pattern = {"name": "fermat", "height_m": 1e-6, "width_m": 1e-6, "step_m": 3e-7}
    _, documents = run(ptycho_scan([b.detector], b.stage.y, b.stage.x, pattern, metadata=b.metadata.to_start()))
    assert of(documents, "stop")[0]["num_events"]["primary"] == of(documents, "start")[0]["num_points"]


def test_a_replayed_scan_in_pixels(tmp_path):
    rng = np.random.default_rng(0)
    data = PtychoDataset(frames=rng.poisson(3, (9, 16, 16)), positions=rng.uniform(100, 200, (9, 2)))
    b = replay_beamline(data)
    _, documents = run(ptycho_scan([b.detector], b.stage.y, b.stage.x, b.pattern, metadata=b.metadata))
    events, block = of(documents, "event"), PtychographyMetadata.from_start(of(documents, "start")[0])
    assert block.position_unit == "px" and block.pattern.overlap is None
    assert all((e["data"]["detector_image"] == f).all() for e, f in zip(events, data.frames, strict=True))


def test_the_plan_is_what_a_queue_server_lists():
    assert inspect.isgeneratorfunction(ptycho_scan)
    parameters = inspect.signature(ptycho_scan).parameters
    assert parameters["detectors"].annotation == Sequence[Readable]  # names become devices by these, not by strings
    assert parameters["y"].annotation is parameters["x"].annotation is Movable
    assert list(parameters)[:4] == ["detectors", "y", "x", "pattern"]
    for name in parameters:
        assert name in ptycho_scan.__doc__
    assert all(isinstance(p.default, int | float | bool | None | type) for p in parameters.values())


def test_ophyd_async_motors_are_welcome(beamline):
    from ophyd_async.core import init_devices
    from ophyd_async.sim import SimMotor

    engine, documents = RunEngine({}, context_managers=[]), []
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    with init_devices():
        row, column = SimMotor(instant=True), SimMotor(instant=True)
    block = beamline.metadata.model_copy(update={"position_keys": ("row", "column")})
    pattern = raster(4e-7, 4e-7, 2e-7)
    engine(ptycho_scan([beamline.detector], row, column, pattern, metadata=block, return_to_start=True))
    places = [(e["data"]["row"], e["data"]["column"]) for e in of(documents, "event")]
    assert np.allclose(np.array(places) * 1e-6, pattern.positions)
    documents.clear()
    wrong = block.model_copy(update={"position_keys": ("row", "slit")})
    with pytest.raises(PlanError, match=r"position_keys\[1\] is 'slit', but column delivers no such key"):
        engine(ptycho_scan([beamline.detector], row, column, pattern, metadata=wrong))
    assert documents == []
