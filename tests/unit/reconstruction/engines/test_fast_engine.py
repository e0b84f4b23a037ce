"""The fast engine recovers objects, can be stopped, repeats itself and does not run away."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.optics import DetectorModel
from ptycho_bluesky.reconstruction import FastEngine, FastOptions, reconstruct
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction.engines._anneal import annealed
from ptycho_bluesky.reconstruction.kernels import Swept, kernels_for


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_the_star_is_recovered_from_a_slightly_wrong_probe(star, kernels):
    result = reconstruct(star.dataset, options={"modes": 2, "epochs": 30, "kernels": kernels, "threads": 1})
    assert star.correlation(result) > 0.95
    assert result.r_factor < 0.16 and result.r_factor <= result.errors[-1] * 1.02
    assert kernels in result.provenance["kernels"]


def test_two_modes_explain_two_modes(star):
    r_factors = [reconstruct(star.dataset, options={"modes": m, "epochs": 40}).r_factor for m in (1, 2)]
    assert r_factors[1] < 0.93 * r_factors[0], r_factors


def test_bad_pixels_do_no_harm_when_masked(star):
    mask = DetectorModel(dead_fraction=0.01, hot_fraction=0.005, seed=3).mask((64, 64))
    frames = np.asarray(star.dataset.frames[:]).copy()
    frames[:, mask] = 60_000
    clean, masked, blind = (
        reconstruct(d, options={"modes": 1, "epochs": 12})
        for d in (
            star.dataset,
            replace(star.dataset, frames=frames, mask=mask),
            replace(star.dataset, frames=frames),
        )
    )
    assert star.correlation(masked) > star.correlation(clean) - 0.02
    assert masked.r_factor == pytest.approx(clean.r_factor, rel=0.05)
    assert blind.r_factor > 1.5 * clean.r_factor


def test_any_state_is_a_complete_result_and_is_not_written_to_again(star):
    states = FastEngine().run(star.dataset, FastOptions(modes=1, epochs=6))
    first = next(states)
    kept = first.object.copy(), first.probe.copy()
    second = next(states)
    states.close()
    assert (first.epoch, second.epoch, second.epochs) == (1, 2, 6)
    np.testing.assert_array_equal(first.object, kept[0])
    np.testing.assert_array_equal(first.probe, kept[1])
    assert second.current_r_factor() < 0.9 * states_start_error(star)


def states_start_error(star) -> float:
    problem = prepare(star.dataset, 1)
    state = next(annealed(problem, kernels_for(problem, "cpu"), FastOptions(modes=1, epochs=1)))
    return state.kernels.r_factor(problem.start, state.groups)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_seed_and_a_number_of_threads_give_the_same_bits(star, threads):
    options = {"modes": 2, "epochs": 4, "threads": threads, "seed": 5}
    a, b = (reconstruct(star.dataset, options=options) for _ in range(2))
    np.testing.assert_array_equal(a.object, b.object)
    np.testing.assert_array_equal(a.probe, b.probe)
    other = reconstruct(star.dataset, options={**options, "seed": 6})
    assert np.abs(other.object - a.object).max() > 0


def test_threads_leave_no_seam(star):
    one, two = (reconstruct(star.dataset, options={"modes": 1, "epochs": 25, "threads": t}) for t in (1, 2))
    assert "2 threads" in two.provenance["kernels"]
    inside = one.field_of_view & two.field_of_view
    assert np.corrcoef(one.phase[inside], two.phase[inside])[0, 1] > 0.97
    assert abs(one.r_factor - two.r_factor) < 0.01


class Runaway:
    """Kernels that fail as often as they are told to, then work."""

    device = "cpu"
    name = "runaway"

    def __init__(self, inner, failures, value):
        self.inner, self.failures, self.value, self.steps = inner, failures, value, []

    def sweep(self, model, groups, steps, rng):
        self.steps.append(steps.object)
        if len(self.steps) > 2 and self.failures:
            self.failures -= 1
            return Swept(replace(model, object=np.full_like(model.object, self.value)), float(self.value))
        return self.inner.sweep(model, groups, steps, rng)

    def r_factor(self, model, groups):
        return self.inner.r_factor(model, groups)


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_an_epoch_that_diverges_is_taken_back_with_half_the_step(star, value, caplog):
    problem = prepare(star.dataset, 1)
    kernels = Runaway(kernels_for(problem, "cpu"), 2, value)
    states = list(annealed(problem, kernels, FastOptions(modes=1, epochs=5, step_end=1)))
    assert [s.epoch for s in states] == [1, 2, 3, 4, 5]
    assert states[2].message == "step halved 2 times" and not states[3].message
    np.testing.assert_allclose(kernels.steps, [1, 1, 1, 0.5, 0.25, 0.25, 0.25])
    assert states[-1].model.is_finite() and "taken back" in caplog.text


def test_an_engine_that_keeps_diverging_gives_up_with_advice(star):
    problem = prepare(star.dataset, 1)
    states = annealed(problem, Runaway(kernels_for(problem, "cpu"), 99, np.nan), FastOptions(modes=1))
    with pytest.raises(ReconstructionError, match=r"diverges.*check positions"):
        list(states)


def test_momentum_goes_further_in_few_epochs_and_ends_as_well(star):
    options = {"modes": 1, "threads": 1, "coarse_epochs": 0, "step": 0.1, "step_end": 0.1}
    few = [reconstruct(star.dataset, "fast", {**options, "epochs": 8, "momentum": m}).r_factor for m in (0.0, 0.6)]
    assert few[1] < 0.97 * few[0]
    assert star.correlation(reconstruct(star.dataset, "fast", {"modes": 2, "epochs": 30, "momentum": 0.5})) > 0.95
