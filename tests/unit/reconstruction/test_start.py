"""Engines begin where they are told: at an earlier result, at a live mosaic, or at a coarse problem."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.errors import FormatError, ReconstructionError
from ptycho_bluesky.formats import write_reconstruction
from ptycho_bluesky.optics import truth_on_grid
from ptycho_bluesky.reconstruction import FastEngine, FastOptions, Start, read_start, reconstruct
from ptycho_bluesky.reconstruction._multigrid import can_be_coarser, coarser, finer
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction._start import begun_from

QUICK = {"modes": 1, "threads": 1, "coarse_epochs": 0}


def mosaic(star, folder, pixels=1.0, shift=0):
    """A mosaic file of the true phase, on pixels `pixels` times as large, `shift` of them cut off."""
    grid = star.dataset.object_grid()
    phase = np.angle(truth_on_grid(star.obj, grid, 64))
    step = int(pixels)
    cut = phase[shift::step, shift::step].astype(np.float32)
    cut[:2] = np.nan
    path = folder / "mosaic.npz"
    origin = np.array(grid.origin) + shift * grid.pixel_size
    np.savez(path, phase=cut, origin=origin, pixel_size=grid.pixel_size * pixels)
    return path


@pytest.mark.parametrize(("pixels", "shift"), [(1.0, 0), (1.0, 7), (2.0, 0)])
def test_a_live_mosaic_gives_a_better_first_epoch_than_an_empty_object(star, tmp_path, pixels, shift):
    start = read_start(mosaic(star, tmp_path, pixels, shift))
    empty, warm = (
        reconstruct(star.dataset, "fast", {**QUICK, "epochs": 1, "step": 0.2}, start=s) for s in (None, start)
    )
    assert warm.r_factor < 0.8 * empty.r_factor
    assert star.correlation(warm) > star.correlation(empty) + 0.1


def test_a_result_is_gone_on_with_from_its_file(star, tmp_path):
    first = reconstruct(star.dataset, "fast", {**QUICK, "epochs": 12})
    write_reconstruction(tmp_path / "first.h5", first)
    on = reconstruct(star.dataset, "fast", {**QUICK, "epochs": 2, "step": 0.1}, start=read_start(tmp_path / "first.h5"))
    assert on.r_factor < first.r_factor * 1.01
    np.testing.assert_allclose(
        (np.abs(on.probe) ** 2).sum(), (np.abs(first.probe) ** 2).sum(), rtol=1e-3, err_msg="the power is the problem's"
    )


def test_a_start_of_another_field_is_refused(star):
    grid = star.dataset.object_grid()
    far = Start(np.ones((1, 9, 9), np.complex64), (1.0, 1.0), grid.pixel_size, np.ones((9, 9), bool))
    with pytest.raises(ReconstructionError, match="covers 0% of the scan positions"):
        begun_from(prepare(star.dataset, 1), far)


def test_a_file_that_is_no_start_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", image=np.ones(3))
    with pytest.raises(FormatError, match=r"other\.npz is no image to begin with"):
        read_start(tmp_path / "other.npz")


def test_a_coarse_problem_has_the_low_frequencies_of_the_fine_one(star):
    problem = prepare(star.dataset, 2)
    coarse = coarser(problem)
    assert coarse.amplitudes.size == 32
    fine, low = problem.amplitudes.of(np.arange(5)), coarse.amplitudes.of(np.arange(5))
    middle = np.fft.fftshift(fine, axes=(1, 2))[:, 16:48, 16:48]
    np.testing.assert_array_equal(np.fft.fftshift(low, axes=(1, 2)), middle)
    np.testing.assert_allclose(coarse.start.corners * 2, problem.start.corners)


def test_a_model_comes_back_from_the_coarse_problem_where_it_was(star):
    problem = prepare(star.dataset, 1)
    y, x = np.indices(problem.grid.shape)
    smooth = np.exp(0.5j * np.sin(y / 11) * np.cos(x / 13)).astype(np.complex64)[None]
    begun = replace(problem, start=replace(problem.start, object=smooth))
    back = finer(begun, coarser(begun).start)
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert np.abs(back.start.object[inner] - smooth[inner]).max() < 0.05
    np.testing.assert_allclose(back.start.probe, problem.start.probe, atol=1e-4 * np.abs(problem.start.probe).max())
    np.testing.assert_allclose(back.start.corners, problem.start.corners)


def test_a_coarse_start_helps_a_short_run(star):
    options = {"modes": 1, "threads": 1, "epochs": 3}
    without, with_it = (
        list(FastEngine().run(star.dataset, FastOptions(**options, coarse_epochs=n)))[-1].current_r_factor()
        for n in (0, 8)
    )
    assert with_it < 0.97 * without


def test_what_cannot_be_coarser_is_not(star):
    small = replace(star.dataset, frames=np.asarray(star.dataset.frames[:])[:, 16:48, 16:48], probe=None)
    assert not can_be_coarser(prepare(small, 1))
    assert not can_be_coarser(prepare(star.dataset, 1, memory_gb=1e-6))
