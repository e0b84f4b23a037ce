"""Groups of frames by probe and fraction of a pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.optics import fourier_shift
from ptycho_bluesky.reconstruction._groups import ProbeGroups

ONE = np.zeros(40, np.int64)


def probes(sets: int, modes: int = 2, size: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (sets, modes, size, size)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def corners(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-20, 20, (40, 2))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_corner_and_fraction_make_the_position_rounded_and_there_are_few_groups(seed, divisions):
    where = corners(seed)
    groups = ProbeGroups.of(where, divisions, ONE)
    rebuilt = groups.corners + groups.fractions[groups.of_frame]
    assert np.abs(rebuilt - where).max() <= 0.5 / divisions + 1e-9
    np.testing.assert_allclose(rebuilt * divisions, np.rint(rebuilt * divisions), atol=1e-9)
    assert (groups.fractions > -0.5).all() and (groups.fractions <= 0.5).all()
    assert len(groups.sets) <= divisions**2


@pytest.mark.parametrize("divisions", [1, 2, 3])
def test_a_probe_spread_is_the_probe_moved_and_gathering_brings_it_back(divisions):
    probe, sets = probes(2), np.arange(40) % 2
    groups = ProbeGroups.of(corners(), divisions, sets)
    spread = groups.spread(probe)
    for copy, number, fraction in zip(spread, groups.sets, groups.fractions, strict=True):
        np.testing.assert_allclose(copy, fourier_shift(probe[number], fraction), atol=1e-5)
    visits = np.stack([np.bincount(groups.of_frame[::2], minlength=len(spread)), np.bincount(groups.of_frame[1::2])])
    np.testing.assert_allclose(groups.gather(np.stack([spread, spread]), visits, probe), probe, atol=1e-5)


def test_copies_count_as_often_as_they_were_visited_and_a_probe_without_visits_stays():
    groups = ProbeGroups.of(np.zeros((4, 2)), 1, np.array([0, 0, 1, 1]))
    probe = probes(2)
    copies = np.stack([np.full_like(probe, 2), np.full_like(probe, 6)])
    gathered = groups.gather(copies, np.array([[3, 0], [1, 0]]), probe)
    np.testing.assert_allclose(gathered[0], 3)
    np.testing.assert_array_equal(gathered[1], probe[1])
