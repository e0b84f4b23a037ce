"""The LSQML engine: best steps, a probe that varies, a background, and no running away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.optics import object_corners, object_patches, zone_plate_probe
from ptycho_bluesky.reconstruction import reconstruct
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction.engines._batch_model import BatchProblem, ModelTensors
from ptycho_bluesky.reconstruction.engines._least_squares import best_steps
from ptycho_bluesky.reconstruction.engines._lsqml import LsqmlEngine, LsqmlOptions
from ptycho_bluesky.reconstruction.engines._variation import VariationUpdate, with_variation

QUICK = {"threads": 1, "epochs": 15}


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.9), st.floats(0.05, 0.9), st.integers(0, 1000))
def test_best_steps_are_found_when_residual_waves_lie_along_both_directions(s, t, seed):
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(3, 2, 8, 8, dtype=torch.complex64, generator=generator) for _ in range(2))
    found = best_steps(s * one + t * other, one, other)
    expected = torch.tensor([[s, t]]).expand(3, 2)
    torch.testing.assert_close(found, expected, rtol=0.35, atol=0.03)  # the ridge shortens them


@pytest.mark.parametrize("batches", ["compact", "sparse"])
def test_the_star_is_recovered(star, batches):
    begun = reconstruct(star.dataset, "fast", {"modes": 2, "epochs": 12, "threads": 1, "coarse_epochs": 0})
    step = {"compact": 1.0, "sparse": 0.3}[batches]
    options = {"modes": 2, "batches": batches, "step": step, "step_end": 0.1, **QUICK}
    result = reconstruct(star.dataset, "lsqml", options, start=begun)
    assert star.correlation(result) > 0.95
    assert result.r_factor < begun.r_factor


def test_it_finds_the_star_from_nothing(star):
    result = reconstruct(star.dataset, "lsqml", {"modes": 1, "batches": "sparse", "threads": 1, "epochs": 20})
    assert star.correlation(result) > 0.9


@pytest.fixture(scope="module")
def unsteady(star):
    """The star lit by a beam whose focus drifts by 40 um and whose intensity swings by 15 %."""
    dataset, rng = star.dataset, np.random.default_rng(5)
    size, pixel = dataset.frame_shape[0], dataset.pixel_size_m
    progress = np.linspace(-1, 1, len(dataset))
    corners = np.rint(object_corners(dataset.positions, star.obj.shape, size, pixel)).astype(np.int64)
    patches = object_patches(star.obj, corners, (size, size))
    frames, optics = [], {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    for k, drift in enumerate(progress):
        probe = zone_plate_probe(size, pixel, dataset.geometry.wavelength_m, defocus_m=150e-6 + drift * 20e-6, **optics)
        probe *= np.sqrt(1e6 * (1 + 0.15 * np.sin(40 * drift)) / (np.abs(probe) ** 2).sum())
        frames.append(rng.poisson(np.fft.fftshift(np.abs(np.fft.fft2(probe * patches[k], norm="ortho")) ** 2)))
    middle = np.array(star.obj.shape) // 2 - size // 2
    positions = (corners - middle) * pixel  # whole pixels, so that nothing but the beam varies
    return replace(dataset, frames=np.array(frames, np.float32), positions=positions), 1 + 0.15 * np.sin(40 * progress)


def test_a_probe_that_varies_is_followed(star, unsteady):
    dataset, intensity = unsteady
    begun = reconstruct(dataset, "fast", {"modes": 1, "epochs": 20, "threads": 1, "coarse_epochs": 0})
    results = {}
    for opr in (0, 1, 2):
        results[opr] = reconstruct(dataset, "lsqml", {"modes": 1, "opr": opr, **QUICK}, start=begun)
    r_factors = [results[opr].r_factor for opr in (0, 1, 2)]
    assert r_factors[1] < 0.9 * r_factors[0] and r_factors[2] < 0.93 * r_factors[1], r_factors  # noise alone is 0.085
    found = (1 + results[2].opr_weights[:, 0]) ** 2
    assert np.corrcoef(found, intensity)[0, 1] > 0.95
    moving = replace(star, dataset=dataset)
    assert moving.correlation(results[2]) > moving.correlation(results[0])
    gram = np.einsum("rij,sij->rs", results[2].opr_modes.conj(), results[2].opr_modes).real
    assert abs(gram[0, 1]) < 0.02 * gram[0, 0] and gram[1, 1] == pytest.approx(gram[0, 0], rel=0.02)


def test_the_standard_form_of_a_variation_leaves_every_probe_as_it_was(star):
    problem, rng = prepare(star.dataset, 1), np.random.default_rng(0)
    start = with_variation(problem, 3)
    probe = start.probe[0, 0]
    modes = np.abs(probe).mean() * (rng.normal(size=(3, *probe.shape)) + 0j).astype(np.complex64)
    modes -= 1j * (probe.conj() * modes).sum(axis=(1, 2), keepdims=True).imag / (np.abs(probe) ** 2).sum() * probe
    modes[0] = probe
    weights = rng.normal(0, 0.2, (len(problem), 3)).astype(np.float32)
    weights -= weights.mean(axis=0)
    start = replace(start, variation=replace(start.variation, modes=modes, weights=weights))
    tensors = ModelTensors(BatchProblem(problem, "cpu", 1), start, problem.groups(start, 1))
    frames = torch.arange(len(problem))
    before = tensors.light(frames).probes
    VariationUpdate(tensors, 0.5, rng).standardise()
    tensors.spread_probes()
    torch.testing.assert_close(tensors.light(frames).probes, before, rtol=0, atol=1e-3 * float(before.abs().max()))
    flat = torch.view_as_real(tensors.modes).flatten(1)
    gram = flat @ flat.T
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(3), rtol=0, atol=1e-3)
    assert float(tensors.weights.mean(dim=0).abs().max()) < 1e-5


def test_counts_that_are_no_diffraction_are_told_apart(star):
    y, x = np.indices((64, 64)) - 32
    true = 20 * np.exp(-(y**2 + x**2) / 800) + 3
    frames = np.asarray(star.dataset.frames[:]) + np.random.default_rng(2).poisson(true, star.dataset.frames.shape)
    dataset = replace(star.dataset, frames=frames.astype(np.float32))
    begun = reconstruct(dataset, "fast", {"modes": 2, "epochs": 12, "threads": 1, "coarse_epochs": 0})
    blind, seeing = (
        reconstruct(dataset, "lsqml", {"modes": 2, "background": b, **QUICK}, start=begun) for b in (False, True)
    )
    assert seeing.r_factor < 0.93 * blind.r_factor
    assert seeing.background.min() >= 0 and np.corrcoef(seeing.background.ravel(), true.ravel())[0, 1] > 0.5
    assert star.correlation(seeing) > star.correlation(blind) - 0.005


def test_positions_that_are_off_by_half_a_pixel_come_back(star):
    pixel, rng = star.dataset.pixel_size_m, np.random.default_rng(4)
    off = rng.normal(0, 0.5, star.dataset.positions.shape)
    spoiled = replace(star.dataset, positions=star.dataset.positions + off * pixel)
    begun = reconstruct(spoiled, "fast", {"modes": 2, "epochs": 12, "threads": 1, "coarse_epochs": 0})
    result = reconstruct(spoiled, "lsqml", {"modes": 2, "position_correction": True, **QUICK}, start=begun)
    rest = (result.positions - star.dataset.positions) / pixel
    rms = [np.sqrt(((v - v.mean(axis=0)) ** 2).mean()) for v in (off, rest)]
    assert rms[1] < 0.6 * rms[0], rms
    assert "positions: scale" in result.provenance["messages"][-1]


def test_several_probes_do_not_vary(star):
    problem = prepare(star.dataset, 1)
    start = replace(problem.start, probe=np.concatenate([problem.start.probe] * 2))
    with pytest.raises(ReconstructionError, match="one by one"):
        next(LsqmlEngine().iterate(replace(problem, start=start), LsqmlOptions(modes=1, opr=1)))


def test_a_lost_cause_ends_in_words(star, monkeypatch):
    problem = prepare(star.dataset, 1)
    monkeypatch.setattr(
        "ptycho_bluesky.reconstruction.engines._least_squares.best_steps",
        lambda residual, *_: torch.full((len(residual), 2), float("nan")),
    )
    with pytest.raises(ReconstructionError, match="diverges"):
        next(LsqmlEngine().iterate(problem, LsqmlOptions(modes=1, threads=1)))
