"""The difference map and RAAR recover objects from exit waves that they hold in memory."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction import EngineState
from ptycho_bluesky.reconstruction._amplitudes import MemoryAmplitudes
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction._result import finish
from ptycho_bluesky.reconstruction.engines import (
    DifferenceMapEngine,
    DifferenceMapOptions,
    RaarEngine,
    RaarOptions,
    _exit_waves,
)
from ptycho_bluesky.reconstruction.engines._exit_waves import DifferenceMap, Mean, RelaxedReflections
from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels

ENGINES = [DifferenceMapEngine, RaarEngine]


def last(states: Iterator[EngineState]) -> EngineState:
    for state in states:
        found = state
    return found


def result_of(star, state: EngineState):
    return finish(star.dataset, state, state.current_r_factor(), [], "", {}, {})


@pytest.mark.parametrize(("engine", "epochs", "r_factor"), [(DifferenceMapEngine, 30, 0.13), (RaarEngine, 20, 0.12)])
def test_the_star_is_recovered_from_a_slightly_wrong_probe(star, engine, epochs, r_factor):
    options = engine.options_type(modes=2, epochs=epochs, threads=1)
    state = last(engine().run(star.dataset, options))
    result = result_of(star, state)
    assert (state.epoch, state.epochs) == (epochs, epochs) and result.r_factor < r_factor
    assert star.correlation(result) > 0.95
    flat = state.probe.reshape(2, -1)
    assert abs(np.vdot(flat[0], flat[1])) < 1e-3 * np.vdot(flat[0], flat[0]).real  # orthogonal, strongest first
    assert np.linalg.norm(flat[0]) > np.linalg.norm(flat[1])


def test_settling_brings_a_wandering_difference_map_to_rest(star):
    states = list(DifferenceMapEngine().run(star.dataset, DifferenceMapOptions(modes=2, epochs=30, average=1)))
    r_factors = [state.r_factor for state in states]
    assert all(after < before for before, after in pairwise(r_factors[20:]))
    assert r_factors[-1] < 0.9 * min(r_factors[15:20])


def test_models_that_differ_in_a_global_phase_have_a_mean(star):
    start = prepare(star.dataset, 2).start
    model = replace(start, object=star_like(start.object))
    mean, noise = Mean(), 1e-3 * np.random.default_rng(0).normal(size=model.object.shape)
    mean.add(replace(model, object=model.object + noise.astype(np.complex64)))
    turned = replace(model, object=(model.object - noise) * np.complex64(1j), probe=model.probe / np.complex64(1j))
    averaged = mean.add(turned)
    np.testing.assert_allclose(averaged.object, model.object, atol=1e-5)
    np.testing.assert_allclose(averaged.probe, model.probe, atol=1e-5 * np.abs(model.probe).max())
    assert averaged.object.dtype == averaged.probe.dtype == np.complex64


def test_a_fraction_of_a_pixel_matters(star):
    states = [
        last(RaarEngine().run(star.dataset, RaarOptions(modes=2, epochs=12, settle=3, subpixel=s))) for s in (1, 4)
    ]
    whole, fractions = (state.current_r_factor() for state in states)
    assert fractions < 0.97 * whole, (fractions, whole)


@pytest.mark.parametrize("engine", ENGINES)
def test_any_state_is_a_complete_result_and_is_not_written_to_again(star, engine):
    states = engine().run(star.dataset, engine.options_type(modes=1, epochs=4, average=2, settle=1))
    first = next(states)
    kept = first.object.copy(), first.probe.copy()
    later = last(states)
    np.testing.assert_array_equal(first.object, kept[0])
    np.testing.assert_array_equal(first.probe, kept[1])
    assert later.epoch == 4 and later.current_r_factor() < 0.7 * first.r_factor


@pytest.mark.parametrize("kind", [DifferenceMap, RelaxedReflections])
def test_what_explains_all_frames_stays_as_it_is(kind, star):
    """The solution is a fixed point: waves, object and probe that fit frames without noise do not move."""
    problem = prepare(star.dataset, 2)
    options = RaarOptions(modes=2, inner=2, beta=0.8)
    kernels = BatchKernels(problem, "cpu", 1)
    waves = kind(problem, options, kernels, "test")
    model = replace(problem.start, object=star_like(problem.start.object))
    amplitude = exact_amplitudes(model, waves, kernels)
    exact = replace(problem, start=model, amplitudes=amplitude)
    waves = kind(exact, options, kernels, "test")
    r_factors = [waves.epoch(with_probe=True, settle=n == 2) for n in range(4)]
    assert max(r_factors) < 1e-4
    lit = np.zeros(model.object.shape[1:], bool)
    lit[60:120, 60:120] = True
    np.testing.assert_allclose(waves.obj.numpy()[lit], model.object[0][lit], atol=2e-3)
    assert np.abs(waves.probe - model.probe).max() < 2e-3 * np.abs(model.probe).max()


def star_like(obj: np.ndarray) -> np.ndarray:
    y, x = np.indices(obj.shape[1:]) / 20
    return np.exp(0.5j * np.sin(x + y**2))[None].astype(np.complex64)


def exact_amplitudes(model, waves, kernels):
    groups = waves.groups
    probes, obj = torch.from_numpy(groups.spread(model.probe)), torch.from_numpy(model.object[0])
    exits = kernels.waves.exit_waves(obj, probes, torch.from_numpy(groups.of_frame), torch.from_numpy(groups.corners))
    amplitude = (kernels.waves.to_detector(exits).abs() ** 2).sum(dim=1).sqrt().numpy()
    return MemoryAmplitudes(amplitude, model.corners)


def test_bad_pixels_are_left_to_the_model(star):
    mask = np.zeros((64, 64), bool)
    mask[20:24, 30:40] = True
    frames = np.asarray(star.dataset.frames[:]).copy()
    frames[:, mask] = 60_000
    options = RaarOptions(modes=2, epochs=20, threads=1)
    spoiled = replace(star.dataset, frames=frames, mask=mask)
    result = result_of(star, last(RaarEngine().run(spoiled, options)))
    assert result.r_factor < 0.13 and star.correlation(result) > 0.95


@pytest.mark.parametrize(("engine", "gigabytes"), [(DifferenceMapEngine, "0.00819 GB"), (RaarEngine, "0.0164 GB")])
def test_waves_that_do_not_fit_are_refused_with_the_memory_they_need(star, engine, gigabytes, monkeypatch):
    class Memory:
        available = 1e7

    monkeypatch.setattr(_exit_waves.psutil, "virtual_memory", lambda: Memory)
    monkeypatch.setattr(_exit_waves, "SHARE_OF_MEMORY", 0.7 if engine is RaarEngine else 0.5)
    dataset = star.dataset.subset(np.arange(125))
    problem = prepare(dataset, 2, memory_gb=1)
    with pytest.raises(ReconstructionError, match=rf"125 frames of 64 x 64 pixels with 2 modes need {gigabytes}"):
        next(engine().iterate(problem, engine.options_type(modes=2)))


def test_numbers_that_are_not_finite_end_in_advice(star):
    problem = prepare(star.dataset, 1)
    spoiled = replace(problem, start=replace(problem.start, object=problem.start.object * np.nan))
    with pytest.raises(ReconstructionError, match=r"epoch 1 .*not finite.*check positions"):
        next(RaarEngine().iterate(spoiled, RaarOptions(modes=1)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("options", "match"), [({"kernels": "numba"}, "torch"), ({"background": True}, "does not have background")]
)
def test_what_the_engine_does_not_have_is_refused(star, engine, options, match):
    with pytest.raises(ReconstructionError, match=match):
        next(engine().run(star.dataset, engine.options_type(modes=1, **options)))
