"""ophyd-async devices: the plans and the data of the classic ones."""

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus

from ptycho_bluesky.devices import replay_beamline, simulated_beamline
from ptycho_bluesky.devices.asynchronous import asynchronous_beamline
from ptycho_bluesky.errors import DeviceError, PlanError
from ptycho_bluesky.experiment import PtychoDataset, snake
from ptycho_bluesky.plans import ptycho_fly, ptycho_scan
from ptycho_bluesky.stream import Frame, RunReader


@pytest.fixture(scope="module")
def run_engine():
    return RunEngine({}, context_managers=[])


@pytest.fixture
def make(tmp_path):
    def beamline(name="a"):
        return simulated_beamline(
            frame_size=64, field_m=(1.5e-6, 1.5e-6), folder=tmp_path / name, speedup=1e3, stage_errors=None
        )

    return beamline


def measured(engine, metadata, plan):
    """Frames (N, H, W), positions (N, 2), keys of the descriptor, as a reader of the run gets them."""
    reader, found, keys, starts = RunReader(metadata), [], [], []

    def receive(name, doc):
        found.extend(reader.feed(name, doc))
        if name == "descriptor":
            keys.append(doc["data_keys"])
        if name == "start":
            starts.append(doc["ptychography"])

    token = engine.subscribe(receive)
    try:
        engine(plan)
    finally:
        engine.unsubscribe(token)
    frames, positions = [], []
    for item in found:
        if isinstance(item, Frame):
            frames.append(item.pixels)
            positions.append((item.y, item.x))
            continue
        with h5py.File(item.frames.path) as file:
            frames.extend(file[item.frames.dataset][item.frames.start : item.frames.stop])
        columns = []
        for axis in (item.y, item.x):
            if isinstance(axis, list):
                columns.append(axis)
            else:
                with h5py.File(axis.path) as file:
                    columns.append(file[axis.dataset][axis.start : axis.stop])
        positions.extend(zip(*columns, strict=True))
    return np.array(frames), np.array(positions), keys[0], starts[0]


PATTERN = snake(6e-7, 6e-7, 2e-7)


def test_a_step_scan_gives_what_the_classic_devices_give(run_engine, make):
    b, c = make(), asynchronous_beamline(make("b"))

    def scan(d):
        plan = ptycho_scan([d.detector], d.stage.y, d.stage.x, PATTERN, metadata=d.metadata, min_overlap=None)
        return measured(run_engine, d.metadata, plan)

    frames, positions, keys, start = scan(b)
    again, places, async_keys, async_start = scan(c)
    assert frames.shape == (16, 64, 64) and (frames == again).all() and (positions == places).all()
    assert set(async_keys) <= set(keys) and async_keys["detector_image"]["shape"] == [1, 64, 64]
    differing = {"mask_uri": None, "estimate": None}  # the folder, and what an asynchronous device tells before a scan
    assert {**start, **differing} == {**async_start, **differing}


def test_a_fly_scan_gives_what_the_classic_devices_give(run_engine, make):
    b, c = make(), asynchronous_beamline(make("b"))

    def fly(d):
        plan = ptycho_fly([d.detector], d.flyer, PATTERN, metadata=d.metadata, exposure_s=0.004, min_overlap=None)
        return measured(run_engine, d.metadata, plan)

    frames, positions, keys, _ = fly(b)
    again, places, async_keys, _ = fly(c)
    assert frames.shape == (16, 64, 64) and (frames == again).all() and (positions == places).all()
    assert keys.keys() == async_keys.keys() == {"detector_image", "stage_y", "stage_x"}


def test_recorded_frames_come_back(run_engine, tmp_path):
    positions = np.stack([np.arange(6) * 5.0, np.arange(6) % 2 * 7.0], axis=1)
    frames = np.arange(6, dtype=np.uint16)[:, None, None] + np.zeros((1, 16, 16), np.uint16)
    d = asynchronous_beamline(replay_beamline(PtychoDataset(frames, positions), folder=tmp_path))
    plan = ptycho_scan([d.detector], d.stage.y, d.stage.x, d.pattern, metadata=d.metadata, min_overlap=None)
    got, places, _, _ = measured(run_engine, d.metadata, plan)
    assert (got == frames).all() and (places == positions).all()


def test_faults_are_the_classic_ones(run_engine, make, tmp_path):
    d = asynchronous_beamline(make())
    far = PATTERN.moved((1e-3, 0.0))
    with pytest.raises(PlanError, match="stage_y leaves its limits"):
        run_engine(ptycho_scan([d.detector], d.stage.y, d.stage.x, far, metadata=d.metadata, min_overlap=None))
    homeless = asynchronous_beamline(simulated_beamline(frame_size=64, field_m=(1e-6, 1e-6), speedup=1e3))
    plan = ptycho_scan(
        [homeless.detector], homeless.stage.y, homeless.stage.x, PATTERN, metadata=homeless.metadata, min_overlap=None
    )
    with pytest.raises(FailedStatus) as failed:
        run_engine(plan)
    assert isinstance(failed.value.__cause__, DeviceError) and "has no folder" in str(failed.value.__cause__)
