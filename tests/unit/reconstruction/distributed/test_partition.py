from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import fermat
from ptycho_bluesky.reconstruction.distributed._partition import Halo, Partition, light_box

SIZE, SHAPE = 16, (120, 140)


def corners(count: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(2, np.array(SHAPE) - SIZE - 2, (count, 2))


def touched(partition: Partition, rank: int) -> np.ndarray:
    """Pixels of the object that a rank lights, frame by frame: slow and plain."""
    lit = np.zeros(partition.shape, bool)
    for corner in partition.corners[partition.frames[rank]]:
        ends = [
            (int(np.floor(c + part.start)) - partition.margin, int(np.ceil(c + part.stop)) + partition.margin)
            for c, part in zip(corner, partition.light, strict=True)
        ]
        (top, bottom), (left, right) = [(max(a, 0), b) for a, b in ends]
        lit[top:bottom, left:right] = True
    return lit


@given(
    ranks=st.integers(1, 9),
    kind=st.sampled_from(["hilbert", "stripes", "random"]),
    margin=st.integers(1, 4),
    light=st.sampled_from([None, (slice(3, 12), slice(5, 16))]),
    seed=st.integers(0, 100),
)
@settings(max_examples=15, deadline=None)
def test_halos_are_the_pixels_that_two_ranks_light(ranks, kind, margin, light, seed):
    partition = Partition.of(corners(60, seed), SIZE, SHAPE, ranks, kind, margin=margin, light=light)
    lit = [touched(partition, rank) for rank in range(ranks)]
    found = {(halo.first, halo.second): halo for halo in partition.halos}
    for first in range(ranks):
        for second in range(first + 1, ranks):
            both = lit[first] & lit[second]
            assert ((first, second) in found) == both.any()
            if both.any():
                halo = found[first, second]
                seen = np.zeros(SHAPE, bool)
                seen[halo.rows, halo.columns] = True
                assert len(halo) == both.sum() and np.array_equal(seen, both)
    everything = sum(2 * len(halo) for halo in partition.halos)
    assert partition.bytes_per_exchange() == 8 * everything
    assert sum(partition.bytes_per_exchange(rank) for rank in range(ranks)) == 8 * everything


@given(ranks=st.integers(2, 6), margin=st.integers(1, 3), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_interior_frames_light_no_pixel_that_another_rank_lights(ranks, margin, seed):
    partition = Partition.of(corners(80, seed), SIZE, SHAPE, ranks, margin=margin)
    for rank in range(ranks):
        others = np.any([touched(partition, other) for other in range(ranks) if other != rank], axis=0)
        for corner, border in zip(partition.corners[partition.frames[rank]], partition.border(rank), strict=True):
            first = np.maximum(np.floor(corner).astype(int) - margin, 0)
            last = np.ceil(corner).astype(int) + SIZE + margin
            assert others[first[0] : last[0], first[1] : last[1]].any() == border


@pytest.mark.parametrize("kind", ["hilbert", "stripes", "random"])
@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_each_frame_has_one_owner_and_lies_inside_its_tile(kind, ranks):
    partition = Partition.of(corners(), SIZE, SHAPE, ranks, kind)
    assert sorted(np.concatenate(partition.frames)) == list(range(200))
    counts = [len(frames) for frames in partition.frames]
    assert max(counts) - min(counts) <= 1
    for rank, (frames, (rows, columns)) in enumerate(zip(partition.frames, partition.tiles, strict=True)):
        assert (partition.owner[frames] == rank).all()
        assert (partition.corners[frames] >= [rows.start, columns.start]).all()
        assert (partition.corners[frames] + SIZE <= [rows.stop, columns.stop]).all()


@given(weights=st.lists(st.floats(0.01, 10), min_size=2, max_size=8), count=st.integers(8, 60))
@settings(deadline=None)
def test_slower_ranks_get_fewer_frames_and_at_least_one(weights, count):
    partition = Partition.of(corners(count), SIZE, SHAPE, len(weights), weights=weights)
    counts = np.array([len(frames) for frames in partition.frames])
    assert counts.sum() == count and counts.min() >= 1
    ideal = np.array(weights) / sum(weights) * count
    if ideal.min() >= 1.5:
        assert np.abs(counts - ideal).max() <= 1


def test_a_slow_rank_shows_in_the_balance():
    partition = Partition.of(corners(), SIZE, SHAPE, 2, weights=[3, 1])
    assert [len(frames) for frames in partition.frames] == [150, 50]
    assert partition.imbalance == pytest.approx(1)


def test_neighbours_agree_on_what_they_exchange():
    partition = Partition.of(corners(), SIZE, SHAPE, 5)
    for rank in range(5):
        for halo in partition.halos_of(rank):
            back = next(one for one in partition.halos_of(halo.other(rank)) if one.other(halo.other(rank)) == rank)
            assert np.array_equal(halo.rows, back.rows) and np.array_equal(halo.columns, back.columns)


def test_pixels_of_a_halo_in_a_tile():
    whole = np.arange(120 * 140).reshape(SHAPE)
    partition = Partition.of(corners(), SIZE, SHAPE, 4)
    halo = partition.halos[0]
    tile = partition.tiles[halo.second]
    assert np.array_equal(whole[tile][halo.inside(tile)], whole[halo.rows, halo.columns])


def test_a_dim_rim_of_the_probe_is_left_out():
    y, x = np.mgrid[:64, :64] - 31.5
    probe = np.exp(-(y**2 + (2 * x) ** 2) / 100).astype(np.complex64)
    rows, columns = light_box(probe[None])
    assert rows.stop - rows.start == pytest.approx(2 * (columns.stop - columns.start), abs=2)
    kept = (np.abs(probe[rows, columns]) ** 2).sum() / (np.abs(probe) ** 2).sum()
    assert 0.999 <= kept < 0.9999
    assert light_box(np.ones((1, 64, 64))) == (slice(0, 64), slice(0, 64))
    with pytest.raises(ReconstructionError, match="between 0 and 1"):
        light_box(probe, 0)


@pytest.mark.parametrize(("ranks", "same_width"), [(8, 0.75), (32, 0.5)])
def test_hilbert_against_whole_object_and_stripes(ranks, same_width):
    places = fermat(360e-6, 360e-6, 8e-6).positions
    places = (places - places.min(axis=0)) * 1e6 + 4
    shape = tuple((np.ceil(places.max(axis=0)) + 32 + 4).astype(int))
    middle = (slice(8, 24), slice(8, 24))

    def sent(kind, light=None):
        return Partition.of(places, 32, shape, ranks, kind, margin=1, light=light).bytes_per_exchange()

    whole = 2 * (ranks - 1) * 8 * shape[0] * shape[1]  # of all ranks in one ring all-reduce of the object
    assert sent("hilbert") < same_width * sent("stripes")
    assert sent("hilbert", middle) < 0.5 * sent("stripes")
    assert sent("hilbert", middle) < 0.1 * whole


def test_report_and_picture(tmp_path):
    partition = Partition.of(corners(), SIZE, SHAPE, 4)
    report = partition.report()
    assert report["halo_bytes"]["all"] == partition.bytes_per_exchange()
    assert report["frames"] == {"least": 50, "most": 50} and report["imbalance"] == 1
    partition.picture(tmp_path / "parts.png")
    assert (tmp_path / "parts.png").stat().st_size > 10_000


def test_one_rank_shares_nothing():
    partition = Partition.of(corners(), SIZE, SHAPE, 1)
    assert partition.halos == [] and partition.bytes_per_exchange(0) == 0 and not partition.border(0).any()
    assert isinstance(Partition.of(corners(), SIZE, SHAPE, 2).halos[0], Halo)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"ranks": 201}, "201 ranks for 200 frames"),
        ({"ranks": 0}, "0 ranks"),
        ({"weights": [1, 0]}, "one positive number for each of 2 ranks"),
        ({"margin": 0}, "at least 1"),
        ({"shape": (60, 60)}, "patches reach out of the object"),
        ({"light": (slice(0, 17), slice(0, 4))}, "frame of 16 pixels"),
        ({"corners": np.full((3, 2), np.nan)}, "not all finite"),
        ({"kind": "spiral"}, "hilbert, stripes and random"),
    ],
)
def test_refusals(changed, text):
    given = {"corners": corners(), "frame_size": SIZE, "shape": SHAPE, "ranks": 2} | changed
    with pytest.raises(ReconstructionError, match=text):
        Partition.of(**given)
