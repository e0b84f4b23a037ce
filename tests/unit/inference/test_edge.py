import json
import sys
import time
import uuid
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho_bluesky.errors import DatasetError, InferenceError
from ptycho_bluesky.experiment import Geometry, Orientation, PtychographyMetadata
from ptycho_bluesky.inference._gate import FrameGate, Refused
from ptycho_bluesky.inference._live_run import LiveRun, RawFrame
from ptycho_bluesky.inference._misfit import Misfit
from ptycho_bluesky.inference._protocol import Patches
from ptycho_bluesky.inference._ready import Network
from ptycho_bluesky.inference._swap import find_model, load_network
from ptycho_bluesky.optics import FarField
from ptycho_bluesky.stream import find_segments
from ptycho_bluesky.stream._live import unlink_session

sys.path.append(str(Path(__file__).parents[1] / "callbacks"))
import edge_models

GEOMETRY = Geometry(energy_kev=8.0, distance_m=2.0, detector_pixel_m=75e-6)
PIXELS = PtychographyMetadata(frames_key="det", position_keys=("y", "x"), position_unit="px")


def metadata(**changes):
    return PIXELS.model_copy(update=changes)


@pytest.fixture
def session():
    name = f"test-{uuid.uuid4().hex}"
    yield name
    unlink_session(name)
    assert not [found for found in find_segments() if found.startswith(name)]


def start(block=PIXELS, **more):
    return {"uid": uuid.uuid4().hex, "number": 1, "ptychography": block.to_start(), "dropped_before": 0, **more}


def scan(count=120, extent=90, seed=1, size=64):
    rng, side = np.random.default_rng(seed), int(np.ceil(np.sqrt(count)))
    for k in range(count):
        y, x = (np.array(divmod(k, side)) + rng.uniform(-0.4, 0.4, 2)) * extent / side
        yield RawFrame(k, y, x, time.time(), edge_models.frame_at(y, x, size))


def phase_error(result, least=0.5):
    return edge_models.phase_error(result["mosaic"], least)


# the gate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: f[:-1], "wrong shape"),
        (lambda f: np.where(f == f.max(), np.nan, f), "not finite"),
        (lambda f: np.where(f == f.max(), np.inf, f), "not finite"),
        (lambda f: f - 2, "negative"),
        (lambda f: f * 0, "all zero"),
        (lambda f: f + 5000, "saturated"),
        (lambda f: f.astype(complex), "not numbers"),
    ],
)
def test_frames_that_cannot_be_trusted_are_refused_by_name(spoil, reason):
    gate = FrameGate(metadata(saturation=4000.0), (16, 16))
    good = np.random.default_rng(0).poisson(5, (16, 16)).astype(float)
    assert gate.prepare(good).dtype == np.float32
    with pytest.raises(Refused, match=reason):
        gate.prepare(spoil(good))


def test_bad_pixels_do_not_count(tmp_path):
    mask = np.zeros((16, 16), bool)
    mask[2, 3] = True
    np.save(tmp_path / "mask.npy", mask)
    gate = FrameGate(metadata(mask_uri=f"file://{tmp_path}/mask.npy", saturation=100.0), (16, 16))
    frame = np.ones((16, 16))
    frame[2, 3], frame[5, 5] = np.nan, 200
    ready = gate.prepare(frame)
    assert ready[2, 3] == 0 and ready[5, 5] == 0 and ready.sum() == 254
    marked = np.ones((16, 16), np.uint32)
    marked[:4] = 2**32 - 1
    assert FrameGate(PIXELS, (16, 16)).prepare(marked).sum() == 12 * 16


def test_frames_are_turned_and_centred():
    way = Orientation(transpose=True, flip_rows=True)
    house = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    block = metadata(orientation=way)
    np.testing.assert_array_equal(FrameGate(block, (8, 8)).prepare(way.undo(house)), house)
    corner = metadata(zero_frequency="corner")
    np.testing.assert_array_equal(FrameGate(corner, (8, 8)).prepare(np.fft.ifftshift(house)), house)
    geometry = GEOMETRY.model_copy(update={"beam_center_px": (2.0, 6.0)})
    block = metadata(geometry=geometry, position_unit="um", orientation=Orientation(flip_columns=True))
    spot = np.zeros((8, 8))
    spot[2, 6] = 9
    assert FrameGate(block, (8, 8)).prepare(spot)[4, 4] == 9


def test_the_network_gets_the_mask_as_its_frames_have_it(session, tmp_path):
    bad, given = np.zeros((16, 16), bool), []
    bad[1, 5] = True
    np.save(tmp_path / "mask.npy", bad)

    class Asking(edge_models.Exact):
        def for_probe(self, probe, pixel_size_m, frame_size, /, *, mask=None):
            given.append(mask)
            return super().for_probe(probe, pixel_size_m, frame_size)

    way = Orientation(transpose=True)
    block = metadata(mask_uri=f"file://{tmp_path}/mask.npy", orientation=way, zero_frequency="corner")
    run = LiveRun(start(block, shape=[16, 16]), Network("asking", Asking()), session, batch=2)
    assert run.trouble == ""
    np.testing.assert_array_equal(given[0], np.roll(bad.T, (8, 8), (0, 1)))


def test_positions_become_object_pixels():
    block = metadata(geometry=GEOMETRY, position_unit="um", axis_signs=(-1, 1))
    pixel = GEOMETRY.pixel_size_m(64)
    row, column = FrameGate(block, (64, 64)).corner_px(1.0, 2.0)
    assert (row, column) == pytest.approx((-1e-6 / pixel, 2e-6 / pixel))
    assert FrameGate(PIXELS, (64, 64)).corner_px(3.5, -1) == (3.5, -1)
    with pytest.raises(Refused, match="position not finite"):
        FrameGate(PIXELS, (64, 64)).corner_px(float("nan"), 0)


def test_runs_that_make_no_sense_are_named(tmp_path):
    with pytest.raises(DatasetError, match="square"):
        FrameGate(PIXELS, (16, 32))
    with pytest.raises(DatasetError, match="geometry is missing"):
        FrameGate(metadata(position_unit="um"), (16, 16))
    with pytest.raises(DatasetError, match="cannot be read"):
        FrameGate(metadata(mask_uri=f"file://{tmp_path}/none.npy"), (16, 16))
    np.save(tmp_path / "mask.npy", np.zeros((4, 4), bool))
    with pytest.raises(DatasetError, match="must have the shape"):
        FrameGate(metadata(mask_uri=f"file://{tmp_path}/mask.npy"), (16, 16))


# confidence -----------------------------------------------------------------------------------------------------------


def test_the_misfit_tells_right_patches_from_wrong_ones():
    n, rng = 32, np.random.default_rng(0)
    i = np.arange(n) - n / 2
    probe = np.exp(-(i[:, None] ** 2 + i[None] ** 2) / 50 + 0.02j * i[:, None] ** 2).astype(np.complex64)[None]
    phase = np.stack([edge_models.truth(i[:, None] + 40 * k, i[None] * 2) for k in range(3)]).astype(np.float32)
    waves = FarField(n).forward(probe * np.exp(1j * phase).astype(np.complex64))
    frames = np.fft.fftshift(np.abs(waves) ** 2, axes=(-2, -1)).astype(np.float32) * 100
    misfit, weight = Misfit(probe, FarField(n)), np.abs(probe[0]) ** 2
    assert misfit(frames, Patches(phase, None, weight)).max() < 1e-3
    assert misfit(frames, Patches(phase + np.float32(1), None, weight)).max() < 1e-3, "a constant is free"
    assert misfit(frames, Patches(phase[::-1], None, weight))[[0, 2]].min() > 0.1
    noise = rng.normal(size=phase.shape).astype(np.float32)
    assert misfit(frames, Patches(noise, None, weight)).min() > 0.3
    inner = Patches(phase[:, 4:28, 4:28], None, weight[4:28, 4:28], 1.0, (4.0, 4.0))
    assert misfit(frames, inner).max() < 0.1, "a patch of the middle explains most"


# one run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [edge_models.Exact, edge_models.Coarse])
def test_an_exact_network_gives_the_object(session, tmp_path, model):
    run = LiveRun(start(shape=[64, 64]), Network("it", model()), session, batch=8)
    run.process(scan())
    result = run.finish(tmp_path, "done", 0, lambda: None)
    run.canvas.close()
    assert result["frames"] == result["frames_inferred"] == 120
    assert result["latency_ms_p95"] >= result["latency_ms_p50"] > 0
    assert phase_error(result) < 0.01
    assert json.loads(Path(result["mosaic"]).with_suffix(".json").read_text()) == result


def test_positions_with_units_give_the_same_image_in_metres(session, tmp_path):
    pixel = GEOMETRY.pixel_size_m(64)
    block = metadata(geometry=GEOMETRY, position_unit="um", axis_signs=(1, -1))
    run = LiveRun(start(block), Network("exact", edge_models.Exact()), session, batch=8)
    frames = [RawFrame(f.index, f.y * pixel * 1e6, -f.x * pixel * 1e6, f.time, f.pixels) for f in scan()]
    run.process(frames)
    result = run.finish(tmp_path, "done", 0, lambda: None)
    run.canvas.close()
    with np.load(result["mosaic"]) as data:
        assert float(data["pixel_size"]) == pytest.approx(pixel)
        scaled = dict(data) | {"origin": data["origin"] / pixel, "pixel_size": 1.0}
    np.savez(result["mosaic"], **scaled)
    assert phase_error(result) < 0.01


def test_every_frame_is_accounted_for(session, tmp_path):
    run = LiveRun(start(shape=[64, 64]), Network("faulty", edge_models.Faulty()), session, batch=8)
    frames = [(f.index, f.y, f.x, f.pixels.copy()) for f in scan(40)]
    frames[3][3][:] = np.nan
    frames[4][3][:] = 0
    frames[10][3][0, 2] = 3
    frames[20][3][0, 2] = 4
    frames[30] = (30, float("inf"), 0.0, frames[30][3])
    frames[31] = (31, 1e9, 0.0, frames[31][3])
    frames[39] = (39, 0.0, 0.0, np.ones((32, 32), np.float32))
    run.process(RawFrame(i, y, x, time.time(), pixels) for i, y, x, pixels in frames)
    result = run.finish(tmp_path, "done", 5, lambda: None)
    run.canvas.close()
    assert result["refused"] == dict.fromkeys(
        ["not finite", "all zero", "network failed", "network gave no finite patch", "position not finite",
         "position far outside", "wrong shape"], 1
    )  # fmt: skip
    assert result["first_refused"]["network failed"] == 10
    assert (result["frames"], result["frames_inferred"], result["frames_dropped"]) == (45, 33, 5)
    assert "out of memory" in result["message"]
    assert phase_error(result, 0.8) < 0.02


def test_a_network_that_cannot_be_made_ready_refuses_all_and_says_so(session, tmp_path):
    run = LiveRun(start(shape=[64, 64]), Network("unready", edge_models.Unready()), session, batch=8)
    run.process(scan(5))
    result = run.finish(tmp_path, "done", 0, lambda: None)
    assert result["refused"] == {"no network": 5}
    assert "wants a probe of its own" in result["message"]
    assert result["mosaic_shape"] == [0, 0]


def test_a_near_field_run_is_refused_in_words(session, tmp_path):
    near = Geometry(energy_kev=12.7, distance_m=1.1, detector_pixel_m=55e-6, modality="near-field")
    block = metadata(geometry=near, position_unit="um")
    run = LiveRun(start(block, shape=[64, 64]), Network("exact", edge_models.Exact()), session, batch=8)
    run.process(scan(3))
    result = run.finish(tmp_path, "done", 0, lambda: None)
    assert result["refused"] == {"no network": 3}
    assert "far field alone" in result["message"]


def test_frames_of_a_file_and_their_positions(session, tmp_path):
    frames = list(scan(50))
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["data"] = np.stack([f.pixels for f in frames])
        file["y"], file["x"] = [f.y for f in frames], [f.x for f in frames]
    path = str(tmp_path / "frames.h5")

    def piece(dataset, first, stop):
        return {"path": path, "dataset": dataset, "start": first, "stop": stop}

    run = LiveRun(start(), Network("exact", edge_models.Exact()), session, batch=8)
    now = time.time()
    first = {"index": 0, "frames": piece("data", 0, 30), "y": piece("y", 0, 30), "x": piece("x", 0, 30), "time": now}
    listed = {"y": [f.y for f in frames[30:]], "x": [f.x for f in frames[30:]]}
    for message in (first, {"index": 30, "frames": piece("data", 30, 50), "time": now, **listed}):
        assert len(list(run.read_range(message))) >= 3
    run._files.timeout_s = 0.05
    lost = {"index": 50, "frames": piece("data", 50, 60), "time": now, "y": [0.0] * 10, "x": [0.0] * 10}
    assert list(run.read_range(lost)) == []
    result = run.finish(tmp_path, "done", 0, lambda: None)
    run.canvas.close()
    assert result["frames_inferred"] == 50
    assert result["refused"] == {"not in the file": 10}
    assert phase_error(result, 0.8) < 0.02


def test_the_image_keeps_the_size_of_the_planned_field(session):
    run = LiveRun(
        start(shape=[64, 64], extents=[[-5, 90], [-5, 40]]), Network("exact", edge_models.Exact()), session, batch=8
    )
    shapes = set()
    for frame in scan(20, extent=30):
        run.process([frame])
        shapes.add(run.canvas.mosaic.maps()[0].shape)
    run.canvas.close()
    assert shapes == {(160, 110)}


# models ---------------------------------------------------------------------------------------------------------------


def test_models_are_found_by_module_and_factory():
    assert isinstance(find_model("edge_models:Exact"), edge_models.Exact)
    for wrong in ("edge_models:Nothing", "no_such_module:Model", "edge_models:Broken"):
        with pytest.raises(InferenceError, match="give module:factory"):
            find_model(wrong)
    with pytest.raises(InferenceError, match="no for_probe"):
        find_model("collections:Counter")


def test_a_predictor_is_made_once_for_a_probe():
    made = []

    class Counting(edge_models.Exact):
        def for_probe(self, probe, pixel_size_m, frame_size, /, *, mask=None):
            made.append(frame_size)
            return super().for_probe(probe, pixel_size_m, frame_size)

    network = Network("counting", Counting())
    for size in (64, 64, 32, 64):
        network.ready(PIXELS, (size, size), None, 2)
    assert made == [64, 32]


def test_a_backend_is_named_with_its_precision_or_refused():
    made = load_network("default", "torch:f32")
    assert made._options["backend"].precision == "f32"
    assert load_network("default")._options["backend"].name == "auto"
    for wrong in ("abacus", "torch:f7"):
        with pytest.raises(InferenceError, match=f"backend '{wrong}'"):
            load_network("default", wrong)
