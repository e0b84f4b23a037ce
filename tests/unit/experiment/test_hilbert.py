from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptycho_bluesky.experiment import hilbert_order


@given(
    arrays(np.float64, st.tuples(st.integers(0, 40), st.just(2)), elements=st.floats(-1e3, 1e3, allow_subnormal=False))
)
def test_it_is_a_permutation(positions: np.ndarray) -> None:
    np.testing.assert_array_equal(np.sort(hilbert_order(positions)), np.arange(len(positions)))


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_consecutive_cells_of_a_full_grid_are_neighbours(bits: int) -> None:
    n = 1 << bits
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2).astype(float)
    shuffled = np.random.default_rng(0).permutation(grid)
    path = shuffled[hilbert_order(shuffled, bits=bits)]
    np.testing.assert_array_equal(np.abs(np.diff(path, axis=0)).sum(axis=1), 1)


def test_it_is_local() -> None:
    positions = np.random.default_rng(1).random((2000, 2))

    def travel(order: np.ndarray) -> float:
        return float(np.hypot(*np.diff(positions[order], axis=0).T).sum())

    # The shortest tour of n random points in a unit square is about 0.7124 sqrt(n) (Beardwood et al. 1959).
    assert travel(hilbert_order(positions)) < 1.6 * 0.7124 * np.sqrt(2000)
    assert travel(np.arange(2000)) > 20 * travel(hilbert_order(positions))


def test_equal_ranges_are_compact() -> None:
    positions = np.random.default_rng(2).random((4096, 2))
    ranges = np.array_split(positions[hilbert_order(positions)], 16)
    sides = [np.ptp(part, axis=0).max() for part in ranges]
    assert max(sides) < 0.65
    assert np.mean(sides) < 0.4


@given(scale=st.floats(1e-9, 1e6), offset=st.floats(-10, 10))
def test_unit_and_origin_hardly_matter(scale: float, offset: float) -> None:
    positions = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij"), axis=-1).reshape(-1, 2)
    order = hilbert_order(positions, bits=3)
    path = positions[hilbert_order((positions + offset + 0.01 * (positions > 3.5)) * scale, bits=8)]
    assert len(order) == len(path)
    assert np.hypot(*np.diff(path, axis=0).T).sum() < 2 * 63


def test_no_position_and_equal_positions() -> None:
    assert hilbert_order(np.empty((0, 2))).tolist() == []
    assert hilbert_order(np.ones((3, 2))).tolist() == [0, 1, 2]


def test_a_line_is_followed() -> None:
    line = np.stack([np.zeros(50), np.arange(50.0)], axis=1)
    order = hilbert_order(line)
    assert order.tolist() in (list(range(50)), list(range(49, -1, -1)))
