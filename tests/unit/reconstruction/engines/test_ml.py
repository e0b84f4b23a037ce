"""The ML engine: its slope is the loss's derivative, it never climbs, and few photons are Poisson numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, fermat
from ptycho_bluesky.optics import simulate_dataset
from ptycho_bluesky.reconstruction import reconstruct
from ptycho_bluesky.reconstruction._model import Variation
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction.engines import _conjugate
from ptycho_bluesky.reconstruction.engines._batch_model import BatchProblem
from ptycho_bluesky.reconstruction.engines._likelihood import Likelihood, Point
from ptycho_bluesky.reconstruction.engines._ml import MlEngine, MlOptions

GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
SIZE = 16


@pytest.fixture(scope="module")
def small() -> PtychoDataset:
    """A dozen frames of 16 x 16 pixels, a bad one among them."""
    rng = np.random.default_rng(1)
    obj = np.exp(1j * rng.normal(0, 0.5, (48, 48))).astype(np.complex64)
    y, x = np.indices((SIZE, SIZE)) - SIZE / 2
    probe = np.exp(-(y**2 + x**2) / 18 + 0.1j * x * y).astype(np.complex64)[None]
    step = GEOMETRY.pixel_size_m(SIZE)
    dataset = simulate_dataset(obj, probe, fermat(14 * step, 14 * step, 4.3 * step), GEOMETRY, 5000)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[3, 5] = True
    return replace(dataset, mask=mask)


def likelihood(dataset: PtychoDataset, noise: str, divisions: int, seed: int) -> tuple[Likelihood, Point, Point]:
    """Return the likelihood in double precision, a point that is no solution, and a direction."""
    problem, rng = prepare(dataset, 2), np.random.default_rng(seed)
    start = replace(
        problem.start,
        background=np.full((SIZE, SIZE), 0.3, np.float32),
        variation=Variation(
            rng.normal(0, 1, (1, SIZE, SIZE)).astype(np.complex64),
            rng.normal(0, 0.5, (len(problem), 1)).astype(np.float32),
        ),
    )
    batches = BatchProblem(problem, "cpu", threads=1, batch_size=5, precision=torch.float64)
    found = Likelihood(batches, start, problem.groups(start, divisions), noise, 0.1, 0.0, with_background=True)

    def noisy(tensor: torch.Tensor, scale: float) -> torch.Tensor:
        values = rng.normal(0, scale, tuple(tensor.shape))
        if tensor.is_complex():
            values = values + 1j * rng.normal(0, scale, tuple(tensor.shape))
        return torch.from_numpy(values).to(tensor.dtype)

    at, scale = found.start, float(np.abs(problem.start.probe).mean())
    point = Point(at.object + noisy(at.object, 0.2), at.probe + noisy(at.probe, scale), at.background)
    return found, point, Point(noisy(at.object, 0.3), noisy(at.probe, scale), noisy(at.background, 0.1))


@settings(max_examples=12, deadline=None)
@given(noise=st.sampled_from(["gaussian", "poisson"]), divisions=st.integers(1, 3), seed=st.integers(0, 1000))
def test_the_gradient_is_the_derivative_of_the_loss(small, noise, divisions, seed):
    found, point, direction = likelihood(small, noise, divisions, seed)
    step = 1e-5
    ahead, behind = (found.slope(point.plus(s, direction)).loss for s in (step, -step))
    slope = found.slope(point)
    expected = 2 * slope.gradient.dot(direction)
    assert (ahead - behind) / (2 * step) == pytest.approx(expected, rel=1e-4, abs=1e-3 * abs(slope.loss) * step)
    assert slope.gradient.dot(slope.downhill) < 0


@settings(max_examples=8, deadline=None)
@given(noise=st.sampled_from(["gaussian", "poisson"]), seed=st.integers(0, 1000))
def test_the_curvature_is_the_second_derivative_along_an_object(small, noise, seed):
    found, point, direction = likelihood(small, noise, 2, seed)
    direction = Point(direction.object, torch.zeros_like(direction.probe), direction.background)
    step = 1e-3
    ahead, here, behind = (found.slope(point.plus(s, direction)).loss for s in (step, 0.0, -step))
    exact = (ahead - 2 * here + behind) / step**2
    assert 2 * found.curvature(point, direction) == pytest.approx(exact, rel=0.02)


@pytest.fixture(scope="module")
def begun(star):
    """A rough image of the star."""
    return reconstruct(star.dataset, "fast", {"modes": 2, "epochs": 15, "threads": 1, "coarse_epochs": 0})


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_the_star_is_recovered_and_no_epoch_climbs(star, begun, kernels):
    options = {"modes": 2, "epochs": 12, "threads": 1, "kernels": kernels}
    result = reconstruct(star.dataset, "ml", options, start=begun)
    assert result.provenance["kernels"].startswith(kernels)
    assert star.correlation(result) > 0.95
    assert result.r_factor < begun.r_factor
    problem = prepare(star.dataset, 2)
    states = MlEngine().iterate(problem, MlOptions(modes=2, epochs=4, threads=1, smooth=1.0, kernels=kernels))
    errors = [state.r_factor for state in states]
    assert len(errors) == 4 and errors[-1] < errors[0]


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_fused_passes_and_torch_walk_the_same_way(star, begun, noise):
    common = {"modes": 2, "epochs": 5, "threads": 1, "noise": noise, "background": True}
    one, other = (
        reconstruct(star.dataset, "ml", {**common, "kernels": kernels}, start=begun) for kernels in ("numba", "torch")
    )
    assert one.r_factor == pytest.approx(other.r_factor, abs=2e-4)
    assert np.abs(one.object - other.object)[0][one.field_of_view].max() < 0.01


def test_a_probe_that_varies_is_left_to_torch(small):
    problem = prepare(small, 1)
    variation = Variation(problem.start.probe[0], np.zeros((len(problem), 1), np.float32))
    varied = replace(problem, start=replace(problem.start, variation=variation))
    names = [next(MlEngine().iterate(p, MlOptions(modes=1, threads=1))).kernels.name for p in (problem, varied)]
    assert names[0].startswith("numba") and names[1].startswith("torch")


def test_poisson_is_no_worse_than_gaussian_with_few_photons(star):
    frames = np.random.default_rng(0).binomial(np.asarray(star.dataset.frames[:]).astype(np.int64), 1e-4)
    dim = replace(star.dataset, frames=frames.astype(np.float32))
    correlation = {}
    for noise in ("gaussian", "poisson"):
        options = {"modes": 1, "epochs": 12, "threads": 1, "noise": noise}
        correlation[noise] = star.correlation(reconstruct(dim, "ml", options))
    assert correlation["poisson"] > max(0.4, correlation["gaussian"]), correlation


def test_counts_that_are_no_diffraction_are_found(star):
    y, x = np.indices((64, 64)) - 32
    true = 20 * np.exp(-(y**2 + x**2) / 800) + 3
    frames = np.asarray(star.dataset.frames[:]) + np.random.default_rng(2).poisson(true, star.dataset.frames.shape)
    dataset = replace(star.dataset, frames=frames.astype(np.float32))
    begun = reconstruct(dataset, "fast", {"modes": 2, "epochs": 12, "threads": 1, "coarse_epochs": 0})
    options = {"modes": 2, "epochs": 15, "threads": 1}
    blind, seeing = (reconstruct(dataset, "ml", {**options, "background": b}, start=begun) for b in (False, True))
    assert seeing.r_factor < 0.9 * blind.r_factor
    assert np.median(np.abs(seeing.background - true) / true) < 0.2  # a few pixels in the bright disc cannot tell
    assert star.correlation(seeing) > star.correlation(blind)


def test_physics_that_it_lacks_is_refused(star):
    with pytest.raises(ReconstructionError, match="opr"):
        reconstruct(star.dataset, "ml", {"opr": 1})


def test_it_ends_in_words_where_no_step_leads_down(small, monkeypatch):
    found, point, _ = likelihood(small, "gaussian", 1, 0)
    slope = found.slope(point)
    assert _conjugate.step_down(found, point, slope, slope.gradient) is None  # uphill
    there, lower = _conjugate.step_down(found, point, slope, slope.downhill)
    assert lower.loss < slope.loss and there is not point
    monkeypatch.setattr(_conjugate, "step_down", lambda *_: None)
    (state,) = MlEngine().iterate(prepare(small, 1), MlOptions(modes=1, threads=1))
    assert state.epoch == state.epochs == 1 and "no step lowers the loss" in state.message
