"""What happens to a dataset before the first epoch."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.errors import DatasetError, ReconstructionError
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._modes import orthogonal_modes, with_modes
from ptycho_bluesky.reconstruction._problem import prepare


def test_unusable_frames_are_left_out_and_counted(star, caplog):
    frames = np.asarray(star.dataset.frames[:20], np.float32).copy()
    frames[3, 5, 5], frames[4, 0, 0], frames[7] = np.nan, -1, 0
    small = replace(star.dataset, frames=frames, positions=star.dataset.positions[:20])
    with caplog.at_level(logging.WARNING):
        problem = prepare(small, 1)
    assert len(problem) == len(problem.start.corners) == 17
    assert "3 of 20 frames left out" in caplog.text
    assert not problem.used[[3, 4, 7]].any()


def test_a_dataset_of_empty_frames_is_refused(star):
    empty = replace(star.dataset, frames=np.zeros((len(star.dataset), 64, 64), np.uint16))
    with pytest.raises(ReconstructionError, match=r"none of .* frames can be used.*check detector and mask"):
        prepare(empty, 1)


def test_faults_of_the_dataset_are_told_together(star):
    wrong = replace(star.dataset, positions=star.dataset.positions[:-1], mask=np.ones((64, 64), bool))
    with pytest.raises(DatasetError, match="2 faults"):
        prepare(wrong, 1)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_unusable_probe_is_refused(star, value):
    probe = np.full((1, 64, 64), value, np.complex64)
    with pytest.raises(ReconstructionError, match=r"the probe's intensity.*leave it out"):
        prepare(replace(star.dataset, probe=probe), 1)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e5])
def test_the_probe_is_scaled_to_the_counts_and_the_log_says_so(star, factor, caplog):
    dataset = replace(star.dataset, probe=np.asarray(star.dataset.probe * factor, np.complex64))
    with caplog.at_level(logging.INFO):
        problem = prepare(dataset, 2)
    counts = np.asarray(dataset.frames[:], np.float64).sum(axis=(1, 2)).mean()
    assert (np.abs(problem.start.probe[0]) ** 2).sum() == pytest.approx(counts, rel=1e-4)
    assert "probe scaled by" in caplog.text or factor == 1.0


def test_amplitudes_are_the_roots_of_the_counts_with_bad_pixels_marked(star):
    mask = np.zeros((64, 64), bool)
    mask[10, 20] = True
    frames = np.asarray(star.dataset.frames[:], np.uint32).copy()
    frames[:, 10, 20] = 2**31
    amplitude = prepare(replace(star.dataset, frames=frames, mask=mask), 1).amplitudes.of(np.arange(6))
    back = np.fft.fftshift(amplitude, axes=(1, 2))
    assert (back[:, 10, 20] == -1).all()
    np.testing.assert_allclose(back[5][~mask] ** 2, frames[5][~mask], rtol=1e-6)


def test_a_missing_probe_is_guessed_in_the_middle(star):
    problem = prepare(replace(star.dataset, probe=None), 1)
    intensity = np.abs(problem.start.probe[0, 0]) ** 2
    y, x = np.unravel_index(int(intensity.argmax()), intensity.shape)
    assert abs(y - 32) <= 2 and abs(x - 32) <= 2


@pytest.mark.parametrize("divisions", [1, 2, 3, 4])
def test_positions_are_rounded_to_the_division_and_the_probe_copies_come_back(divisions):
    rng = np.random.default_rng(0)
    corners = rng.uniform(3, 40, (50, 2))
    sets = rng.integers(0, 2, 50)
    groups = ProbeGroups.of(corners, divisions, sets)
    rounded = groups.corners + groups.fractions[groups.of_frame]
    assert np.abs(rounded - corners).max() <= 0.5 / divisions + 1e-9
    assert np.abs(groups.fractions).max() <= 0.5
    np.testing.assert_array_equal(groups.sets[groups.of_frame], sets)
    f = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None])
    smooth = np.fft.ifft2(rng.normal(size=(2, 2, 32, 32)) * (f < 0.3)).astype(np.complex64)
    copies = np.stack([groups.spread(smooth)] * 2)
    visits = rng.integers(1, 9, (2, len(groups.fractions)))
    np.testing.assert_allclose(groups.gather(copies, visits, smooth), smooth, atol=1e-6)


def test_a_probe_that_no_frame_visited_stays_as_it_is():
    groups = ProbeGroups.of(np.zeros((3, 2)), 1, np.zeros(3, np.int64))
    probe = np.arange(2 * 16, dtype=np.complex64).reshape(2, 1, 4, 4)
    gathered = groups.gather(np.zeros((1, 1, 1, 4, 4), np.complex64), np.array([[3]]), probe)
    assert not gathered[0].any()
    np.testing.assert_array_equal(gathered[1], probe[1])


@pytest.mark.parametrize("modes", [1, 2, 5])
def test_added_modes_are_orthogonal_sorted_and_weak(modes, star):
    made = with_modes(np.asarray(star.dataset.probe[:1]), modes)
    flat = made.reshape(modes, -1).astype(np.complex128)
    gram = flat @ flat.conj().T
    power = gram.diagonal().real
    assert made.shape == (modes, 64, 64) and (np.diff(power) <= 0).all()
    assert np.abs(gram - np.diag(power)).max() < 1e-4 * power.max()
    assert power[0] > 0.7 * power.sum()


def test_orthogonal_modes_keep_the_incoherent_sum():
    rng = np.random.default_rng(2)
    probe = (rng.normal(size=(3, 16, 16)) + 1j * rng.normal(size=(3, 16, 16))).astype(np.complex64)
    np.testing.assert_allclose((np.abs(orthogonal_modes(probe)) ** 2).sum(0), (np.abs(probe) ** 2).sum(0), rtol=1e-4)
