from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._model import Model, Variation
from ptycho_bluesky.reconstruction.distributed._checkpoint import Checkpoints
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator
from ptycho_bluesky.reconstruction.distributed._field import Field
from ptycho_bluesky.reconstruction.distributed._options import RankOptions, RankSpec
from ptycho_bluesky.reconstruction.distributed._pieces import Piece, blend, illumination
from ptycho_bluesky.reconstruction.distributed._some_frames import SomeFrames
from ptycho_bluesky.reconstruction.distributed._sweep import Meter
from ptycho_bluesky.reconstruction.distributed._tiles import Tile
from ptycho_bluesky.reconstruction.engines import FastOptions
from ptycho_bluesky.reconstruction.kernels import Steps

WHOLE = (slice(0, 12), slice(0, 10))
STEPS = Steps(object=0.5, probe=0.5, alpha_object=0.5, alpha_probe=1.0)


@settings(max_examples=30, deadline=None)
@given(numbers=st.sets(st.integers(0, 39), min_size=1), first=st.integers(0, 10), count=st.integers(0, 40))
def test_some_frames_are_those_asked_for(numbers: set[int], first: int, count: int) -> None:
    chosen, frames = np.array(sorted(numbers)), np.arange(40.0)[:, None, None] * np.ones((2, 2))
    some = SomeFrames(frames, chosen)
    assert some.shape == (len(chosen), 2, 2)
    found = some[first : first + count]
    np.testing.assert_array_equal(found, frames[chosen][first : first + count])


def test_light_of_frames_that_reach_out_of_a_tile() -> None:
    rng = np.random.default_rng(0)
    probe = (rng.normal(size=(1, 2, 4, 4)) + 1j).astype(np.complex64)
    corners = rng.uniform(-6, 14, (30, 2))
    large = illumination(corners + 10, probe, (40, 40))
    np.testing.assert_allclose(illumination(corners, probe, (12, 10)), large[10:22, 10:20], rtol=1e-6)


def test_pieces_are_blended_by_their_light() -> None:
    dark, bright = (np.full((12, 6), value, np.float32) for value in (1, 3))
    dark[0] = bright[0] = 0
    left = Piece((slice(0, 12), slice(0, 6)), np.full((1, 12, 6), 1j, np.complex64), dark)
    right = Piece((slice(0, 12), slice(4, 10)), np.full((1, 12, 6), -1j, np.complex64), bright)
    obj, weight = blend([left, right], WHOLE, 1)
    np.testing.assert_array_equal(obj[0, 1:, :4], 1j)
    np.testing.assert_allclose(obj[0, 1:, 4:6], -0.5j)
    np.testing.assert_array_equal(obj[0, 0], 1)  # what nobody has seen
    assert weight[1, 5] == 4
    part, _ = blend([left, right], (slice(2, 5), slice(5, 8)), 1)
    np.testing.assert_allclose(part, obj[:, 2:5, 5:8])


@pytest.fixture
def alone() -> Communicator:
    return Communicator()


@pytest.fixture
def tile(star, alone: Communicator) -> tuple[Field, Tile, list[bool]]:
    """The only rank's tile, which stops when the list holds something."""
    field, wishes = Field(star.dataset, FastOptions(modes=2, epochs=4), RankOptions(), alone), []
    partition = field.partition(field.corners, field.probe)
    shape = [part.stop - part.start for part in partition.tiles[0]]
    start = Model(np.ones((1, *shape), np.complex64), field.probe, field.corners)
    return field, Tile.of(field, partition, start, lambda: bool(wishes), Meter(), "cpu"), wishes


def test_a_sweep_visits_each_frame_once(tile: tuple[Field, Tile, list[bool]]) -> None:
    _, one, _ = tile
    kernels, model = one.kernels, one.problem.start
    groups = one.problem.groups(model, 1)
    before = model.object.copy()
    swept = kernels.sweep(model, groups, STEPS, np.random.default_rng(0))
    assert kernels.meter.frames == len(model.corners)
    np.testing.assert_array_equal(model.object, before)  # a model is never written to
    later = kernels.sweep(swept.model, groups, STEPS, np.random.default_rng(0))
    assert later.error < swept.error and kernels.r_factor(later.model, groups) < later.error


def test_a_wish_to_stop_ends_a_sweep_at_its_next_segment(tile: tuple[Field, Tile, list[bool]]) -> None:
    _, one, wishes = tile
    wishes.append(True)
    model = one.problem.start
    swept = one.kernels.sweep(model, one.problem.groups(model, 1), STEPS, np.random.default_rng(0))
    assert one.kernels.stopped
    share = one.kernels.meter.frames / len(model.corners)
    assert 0.2 < share < 0.3
    assert 0.3 < swept.error < 1.5  # of the frames that were visited, not of all


def test_a_tile_is_outgrown_by_frames_that_move_and_by_a_wider_probe(tile: tuple[Field, Tile, list[bool]]) -> None:
    _, one, _ = tile
    start = one.problem.start
    assert not one.outgrown(start)
    moved = start.corners.copy()
    moved[3, 0] += one.partition.margin
    assert one.outgrown(replace(start, corners=moved))
    narrow = replace(one, partition=replace(one.partition, light=(slice(24, 40), slice(24, 40))))
    assert narrow.outgrown(start)


def test_the_coarse_field_has_the_same_frames(tile: tuple[Field, Tile, list[bool]]) -> None:
    field, _, _ = tile
    coarse = field.coarser()
    assert coarse is not None and coarse.size == field.size // 2
    np.testing.assert_allclose(coarse.corners, field.corners / 2)
    own, _ = coarse.amplitudes(coarse.partition(coarse.corners, coarse.probe))
    assert own.size == coarse.size and own.total == coarse.total < field.total


def piece(value: complex) -> Piece:
    return Piece(WHOLE, np.full((1, 12, 10), value, np.complex64), np.ones((12, 10), np.float32))


def write(checkpoints: Checkpoints, epoch: int, value: complex) -> None:
    variation = Variation(np.ones((2, 4, 4), np.complex64), np.ones((5, 2), np.float32))
    model = Model(np.ones((1, 6, 6), np.complex64), np.ones((1, 1, 4, 4), np.complex64), np.zeros((5, 2)))
    model = replace(model, background=np.full((4, 4), 7, np.float32), variation=variation)
    checkpoints.write(piece(value), model, epoch, [0.5] * epoch, False)


def test_checkpoints_take_their_share_of_the_time(
    tmp_path: Path, alone: Communicator, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0

    def slow_disk(*_: object) -> None:
        nonlocal now
        now += 0.5

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("os.fsync", slow_disk)
    checkpoints = Checkpoints(tmp_path, alone, {}, 0.02)
    assert checkpoints.due() < 0
    now = 111.0
    assert checkpoints.due() > 0
    write(checkpoints, 3, 1j)
    assert checkpoints.seconds == 1.5  # a piece, what is common, and the file that names them
    now = 100 + 3 / 0.02 - 1
    assert checkpoints.due() < 0  # the next one would make it 3 s
    now += 2
    assert checkpoints.due() > 0


def test_a_checkpoint_comes_back(tmp_path: Path, alone: Communicator) -> None:
    checkpoints = Checkpoints(tmp_path, alone, {"frames": 5}, 0.02)
    assert checkpoints.read() is None
    write(checkpoints, 3, 1j)
    write(checkpoints, 4, 2j)
    saved = checkpoints.read()
    assert saved is not None and saved.epoch == 4 and saved.errors == [0.5] * 4
    obj, _ = blend(saved.pieces(), WHOLE, len(saved.model.object))
    np.testing.assert_array_equal(obj, 2j)
    assert saved.model.corners.shape == (5, 2) and saved.model.probe.shape == (1, 1, 4, 4)
    assert saved.model.background is not None and (saved.model.background == 7).all()
    assert saved.model.variation is not None and saved.model.variation.weights.shape == (5, 2)
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint.json", *(f.name for f in saved.files)} | {
        "epoch-4-common-of-1.npz"
    }
    with pytest.raises(ReconstructionError, match="another reconstruction"):
        Checkpoints(tmp_path, alone, {"frames": 6}, 0.02).read()
    assert Checkpoints(tmp_path, alone, {}, 0.0).due() < 0


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, alone: Communicator, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, alone, {}, 0.02)
    write(checkpoints, 3, 1j)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        write(checkpoints, 4, 2j)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no checkpoint after epoch 4, going on without: rank 0: " in caplog.text
    saved = checkpoints.read()
    assert saved is not None and saved.epoch == 3
    assert not list(tmp_path.glob("*.part"))


def test_a_damaged_checkpoint_is_told(tmp_path: Path, alone: Communicator) -> None:
    checkpoints = Checkpoints(tmp_path, alone, {}, 0.02)
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(ReconstructionError, match="is damaged"):
        checkpoints.read()


def test_faults_of_the_ranks_file_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match="cannot be read"):
        RankSpec.read(tmp_path / "none.json")
    (tmp_path / "spec.json").write_text('{"dataset": "a", "folder": "b", "output": "c", "device": "tpu"}')
    with pytest.raises(ReconstructionError, match="device: String should match"):
        RankSpec.read(tmp_path / "spec.json")
