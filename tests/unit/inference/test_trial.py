"""The gate: only a model that is better on held-out frames may pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.inference import ProbeViTModel, PtychoNNModel, PtychoNNPhase, hold_out, load_model, trial
from ptycho_bluesky.inference._scores import on_grid, ssim
from ptycho_bluesky.inference._trial import TrialOptions, _findings, _speed

FEW = TrialOptions(frames=48)


@pytest.fixture(scope="module")
def measured(known_scan: tuple[PtychoDataset, Reconstruction]) -> tuple[PtychoDataset, Reconstruction]:
    return known_scan


@pytest.fixture(scope="module")
def good() -> ProbeViTModel:
    model = load_model()
    assert isinstance(model, ProbeViTModel)
    return model


def noisy(model: ProbeViTModel, scale: float, seed: int) -> ProbeViTModel:
    """The model with noise on its weights, `scale` times their spread."""
    network, generator = copy.deepcopy(model.network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.numel() > 1:
                weight += scale * weight.std() * torch.randn(weight.shape, generator=generator)
    return ProbeViTModel(f"noisy {scale}", network, f"{seed:064x}", {})


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(scale=st.floats(0.0, 1.0), seed=st.integers(0, 2**31))
@example(scale=0.0, seed=0)  # equal
def test_a_model_with_noise_on_its_weights_never_passes(measured, good, scale, seed):  # type: ignore[no-untyped-def]
    found = trial(noisy(good, scale, seed), good, *measured, options=FEW)
    assert not found.passed and any("NOT ENOUGH" in reason for reason in found.reasons)


def test_a_better_model_passes_and_the_verdict_says_why(measured, good):  # type: ignore[no-untyped-def]
    worse = noisy(good, 0.5, 3)
    found = trial(good, worse, *measured, options=FEW)
    assert found.passed, found.reasons
    assert found.candidate["phase_correlation"] > found.in_service["phase_correlation"] > 0
    assert (found.against, found.frames) == (worse.content_hash, 48)
    assert "in both halves of the field" in found.reasons[0]


def test_a_model_in_service_that_does_not_know_this_beam_is_no_hurdle(measured, good):  # type: ignore[no-untyped-def]
    small = ProbeViTModel("small", good.network, "", {})

    def refuse(*_: object, **__: object) -> None:
        raise InferenceError("the beam is too wide")

    object.__setattr__(small, "for_probe", refuse)
    found = trial(good, small, *measured, options=FEW)
    assert found.passed and "the beam is too wide" in found.reasons[0]
    assert found.in_service["phase_correlation"] is None


def test_a_network_that_knows_nothing_is_below_the_floor(measured, good):  # type: ignore[no-untyped-def]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = PtychoNNModel("untrained", PtychoNNPhase(4).eval(), "0" * 64)
    found = trial(untrained, untrained, *measured, options=FEW)
    assert not found.passed and "at least 0.30 is asked of any model" in found.reasons[-1]


def test_each_thing_that_is_looked_at_can_fail_a_candidate():  # type: ignore[no-untyped-def]
    from ptycho_bluesky.inference._scores import Scores

    old = Scores(0.8, 0.5, 0.2, (0.8, 0.8))
    fine = Scores(0.9, 0.5, 0.2, (0.9, 0.9))
    for new, failed in [
        (fine, []),
        (Scores(0.9, 0.5, 0.2, (1.0, 0.8)), [0]),  # no better in one half
        (Scores(0.805, 0.5, 0.2, (0.805, 0.805)), [0]),
        (Scores(0.9, 0.47, 0.2, (0.9, 0.9)), [1]),
        (Scores(0.9, 0.5, 0.23, (0.9, 0.9)), [2]),
        (Scores(float("nan"), 0.5, 0.2, (0.9, 0.9)), [0]),
    ]:
        assert [k for k, (passed, _) in enumerate(_findings(new, old, TrialOptions())) if not passed] == failed
    assert _speed(100, 199, TrialOptions())[0] and not _speed(100, 201, TrialOptions())[0]


def test_held_out_frames_lie_apart_from_those_that_are_trained_on(measured):  # type: ignore[no-untyped-def]
    dataset, result = measured
    learnt, held = hold_out(dataset, result.probe, 0.25)
    assert len(held) >= 0.25 * len(dataset) - 1 and not set(learnt) & set(held)
    gap = dataset.positions[held, 1].min() - dataset.positions[learnt, 1].max()
    assert gap > 4 * dataset.pixel_size_m
    with pytest.raises(InferenceError, match="too small to hold frames out"):
        hold_out(dataset.subset(slice(0, 30)), result.probe)
    with pytest.raises(InferenceError, match="a trial needs 16"):
        trial(load_model(), load_model(), *measured, held_out=held[:10])


def test_a_reconstruction_of_another_dataset_is_refused(measured, good):  # type: ignore[no-untyped-def]
    dataset, result = measured
    with pytest.raises(InferenceError, match="give the reconstruction of this dataset"):
        trial(good, good, dataset.subset(slice(0, 40)), result)


def test_a_reconstruction_is_found_again_on_another_grid(measured):  # type: ignore[no-untyped-def]
    _, result = measured
    pixel = result.pixel_size_m
    moved = on_grid(result, (result.origin[0] + 30 * pixel, result.origin[1] + 40 * pixel), pixel, (50, 60))
    expected = np.where(result.field_of_view, np.angle(result.object[0]), np.nan)[30:80, 40:100]
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    assert np.isfinite(moved).mean() > 0.3
    assert on_grid(result, result.origin, 2 * pixel, (60, 60)).shape == (60, 60)
    assert np.isnan(on_grid(result, (-1.0, -1.0), pixel, (8, 8))).all()


def test_structural_similarity_is_one_for_equals_and_falls_with_noise():  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    image = np.cumsum(np.cumsum(rng.normal(size=(64, 64)), 0), 1) / 64
    image[:8] = np.nan
    assert ssim(image, image) == pytest.approx(1)
    falling = [ssim(image + scale * rng.normal(size=image.shape), image) for scale in (0.01, 0.1, 1.0)]
    assert 1 > falling[0] > falling[1] > falling[2] >= -1
    assert ssim(image, np.full_like(image, np.nan)) == 0
    # Two constants: only the means are compared, (2 a b + c1) / (a^2 + b^2 + c1), c1 next to nothing.
    assert ssim(np.full((16, 16), 1.0), np.full((16, 16), 3.0)) == pytest.approx(0.6)
