"""Automatic differentiation: any optimiser, any loss, and all that a measurement may suffer from."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Geometry, fermat
from ptycho_bluesky.optics import disc_probe, siemens_star, simulate_dataset
from ptycho_bluesky.reconstruction import EngineState
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction._result import finish
from ptycho_bluesky.reconstruction.engines import AutodiffEngine, AutodiffOptions, LearningRates
from ptycho_bluesky.reconstruction.engines._descent import optimizer_named, total_variation
from ptycho_bluesky.reconstruction.engines._differentiable import ModelEvaluator


def run(dataset, **options) -> list[EngineState]:
    chosen = {"modes": 1, "epochs": 10, "threads": 1, "learning_rate": LearningRates(object=0.05, probe=0.05)}
    return list(AutodiffEngine().run(dataset, AutodiffOptions(**{**chosen, **options})))


def last(states: list[EngineState] | Iterator[EngineState]) -> EngineState:
    for state in states:
        found = state
    return found


def correlation(star, state: EngineState) -> float:
    return star.correlation(finish(star.dataset, state, state.current_r_factor(), [], "", {}, {}))


@pytest.mark.parametrize(("loss", "epochs", "r_factor"), [("amplitude", 15, 0.11), ("poisson", 25, 0.13)])
def test_the_star_is_recovered_from_a_slightly_wrong_probe(star, loss, epochs, r_factor):
    states = run(star.dataset, modes=2, epochs=epochs, loss=loss)
    assert correlation(star, states[-1]) > 0.97
    assert states[-1].current_r_factor() < r_factor
    assert states[-1].current_r_factor() <= 1.02 * states[-1].r_factor


def test_the_loss_of_intensities_goes_down_too(star):
    states = run(star.dataset, loss="intensity", epochs=5)
    assert states[-1].r_factor < 0.8 * states[0].r_factor


@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [
        ("Adam", 0.05, {"betas": [0.9, 0.99]}),
        ("AdamW", 0.05, {"weight_decay": 0}),
        ("NAdam", 0.05, {}),
        ("Adagrad", 0.1, {}),
        ("RMSprop", 0.01, {}),
        ("SGD", 0.2, {"momentum": 0.5}),
        ("LBFGS", 1.0, {"max_iter": 3}),
    ],
)
def test_any_optimizer_of_torch_descends(star, name, rate, options):
    rates = LearningRates(object=rate, probe=rate / 20)
    dataset = star.dataset.subset(np.arange(40))
    states = run(dataset, epochs=4, optimizer=name, optimizer_options=options, learning_rate=rates)
    assert states[-1].current_r_factor() < 0.9 * states[0].r_factor


def test_every_optimizer_that_is_offered_can_begin_or_says_why_not():
    parameters = {"object": [torch.nn.Parameter(torch.zeros(1, 4, 4, 2))]}
    with pytest.raises(ReconstructionError, match=r"torch has no optimizer 'Adamm'; allowed are .*Adam, AdamW") as told:
        optimizer_named("Adamm", parameters, {"object": 0.1}, {})
    assert "SparseAdam" not in str(told.value)
    for name in str(told.value).split("allowed are ")[1].split(", "):
        try:
            assert optimizer_named(name, parameters, {"object": 0.1}, {}).param_groups[0]["lr"] == 0.1
        except ReconstructionError as error:
            assert "cannot begin" in str(error) and name == "Muon"  # which is for matrices


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"optimizer": "Newton"}, "torch has no optimizer 'Newton'"),
        ({"optimizer_options": {"momentum": 0.9}}, "'Adam' cannot begin with optimizer_options .*momentum"),
        ({"kernels": "numba"}, "works on kernels 'torch' alone"),
        (
            {"optimizer": "SGD", "learning_rate": LearningRates(object=100, probe=100), "epochs": 50},
            "not finite.*SGD runs away.*smaller rates",
        ),
    ],
)
def test_what_cannot_work_is_told(star, options, match):
    with pytest.raises(ReconstructionError, match=match):
        run(star.dataset.subset(np.arange(30)), **options)


def test_states_are_not_written_to_again_and_a_seed_repeats_them(star):
    dataset = star.dataset.subset(np.arange(40))
    states, again = run(dataset, epochs=3, seed=4), run(dataset, epochs=3, seed=4)
    assert np.abs(states[0].object - states[1].object).max() > 1e-3
    for a, b in zip(states, again, strict=True):
        np.testing.assert_array_equal(a.object, b.object)
    assert np.abs(run(dataset, epochs=3, seed=5)[-1].object - states[-1].object).max() > 0


def test_a_cosine_comes_to_rest_and_a_constant_rate_does_not(star):
    dataset = star.dataset.subset(np.arange(40))

    def move(schedule: str) -> float:
        states = run(dataset, epochs=6, schedule=schedule)
        return float(np.abs(states[-1].object - states[-2].object).mean())

    assert move("cosine") < 0.3 * move("constant")


def test_the_probe_waits_for_its_first_epoch(star):
    states = run(star.dataset.subset(np.arange(40)), epochs=3, probe_start=2)
    np.testing.assert_allclose(states[1].probe, states[1].problem.start.probe[0], rtol=1e-5, atol=1e-4)
    assert np.abs(states[2].probe - states[1].probe).max() > 0.01 * np.abs(states[1].probe).max()


def test_total_variation_smooths(star):
    dataset = star.dataset.subset(np.arange(60))

    def roughness(weight: float) -> float:
        obj = torch.view_as_real(torch.from_numpy(run(dataset, epochs=6, total_variation=weight)[-1].object))
        return float(total_variation(obj))

    assert roughness(0.05) < 0.8 * roughness(0)


def test_positions_are_found(star):
    pixel = star.dataset.pixel_size_m
    errors = np.random.default_rng(3).normal(size=(len(star.dataset), 2))
    spoiled = replace(star.dataset, positions=star.dataset.positions + errors * pixel)
    rates = LearningRates(object=0.05, probe=0.02, positions=0.3)
    held, moved = (
        last(run(spoiled, modes=2, epochs=25, learning_rate=rates, position_correction=c, position_start=2))
        for c in (False, True)
    )
    off = moved.model.corners - (moved.problem.start.corners - errors)
    rms = float(np.sqrt(((off - off.mean(axis=0)) ** 2).sum(axis=1).mean()))
    assert rms < 0.3 and np.sqrt((errors**2).sum(axis=1).mean()) > 1.2
    assert moved.current_r_factor() < 0.8 * held.current_r_factor()
    np.testing.assert_array_equal(held.model.corners, held.problem.start.corners)


def test_a_background_is_found(star):
    true = 30 * np.exp(-((np.indices((64, 64)) - 32) ** 2).sum(axis=0) / (2 * 15**2))
    frames = np.asarray(star.dataset.frames[:]) + np.random.default_rng(1).poisson(true, star.dataset.frames.shape)
    spoiled = replace(star.dataset, frames=frames.astype(np.uint32))
    without, found = (last(run(spoiled, modes=2, epochs=25, background=b)) for b in (False, True))
    assert without.model.background is None and found.model.background is not None
    background = np.fft.fftshift(found.model.background)
    assert background.sum() == pytest.approx(true.sum(), rel=0.2)
    assert np.corrcoef(background.ravel(), true.ravel())[0, 1] > 0.8
    assert found.current_r_factor() < 0.9 * without.current_r_factor()


def test_a_probe_that_varies_is_followed(star):
    factors = np.random.default_rng(2).uniform(0.5, 1.5, len(star.dataset))
    frames = np.random.default_rng(1).poisson(np.asarray(star.dataset.frames[:]) * factors[:, None, None])
    flickering = replace(star.dataset, frames=frames.astype(np.uint32))
    still, followed = (last(run(flickering, epochs=20, opr=rank)) for rank in (0, 2))
    assert followed.current_r_factor() < 0.8 * still.current_r_factor()
    variation, first = followed.model.variation, followed.model.probe[0, 0]
    assert variation is not None and variation.modes.shape == (2, 64, 64)
    power = (np.abs(variation.modes) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(power, (np.abs(first) ** 2).sum(), rtol=1e-3)
    seen = first + np.einsum("kr,rij->kij", variation.weights, variation.modes)
    assert np.corrcoef((np.abs(seen) ** 2).sum(axis=(1, 2)), factors)[0, 1] > 0.9


def test_a_model_goes_on_where_another_ended(star):
    first = last(
        run(star.dataset, modes=2, epochs=8, position_correction=True, position_start=2, background=True, opr=1)
    )
    going_on = replace(first.problem, start=first.model)
    assert ModelEvaluator(going_on, torch.device("cpu")).r_factor(first.model, first.groups) < 1.01 * first.r_factor
    options = AutodiffOptions(modes=2, epochs=1, learning_rate=LearningRates(object=1e-4, probe=1e-4, background=1e-4))
    second = last(AutodiffEngine().iterate(going_on, options))
    assert second.r_factor < 1.01 * first.r_factor
    assert second.model.background is not None and second.model.variation is not None
    np.testing.assert_allclose(second.model.corners, first.model.corners)


def test_the_near_field_with_fractions_of_pixels():
    geometry = Geometry(
        energy_kev=12.0, distance_m=1.0, detector_pixel_m=55e-6, modality="near-field", focus_to_sample_m=4e-3
    )
    size, pixel = 64, geometry.pixel_size_m(64)
    obj = siemens_star((150, 150), spokes=16, rings=1)
    diffuser = scipy.ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(size, size)), 3)
    probe = disc_probe(size, pixel, diameter_m=40 * pixel) * np.exp(40j * diffuser).astype(np.complex64)
    dataset = simulate_dataset(obj, probe, fermat(60 * pixel, 60 * pixel, 8 * pixel), geometry, 1e6)
    whole, exact = (last(run(dataset, epochs=15, subpixel=s)).current_r_factor() for s in (1, 2))
    assert exact < 0.75 * whole and exact < 0.12
    assert prepare(dataset, 1).transfer.shape == (size, size)
