"""Training: reproducible, resumable, and it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference import Conditions, ProbeViTSizes, TrainingOptions, load_model, train
from ptycho_bluesky.inference._losses import phase_agreement, weighted_error
from ptycho_bluesky.inference._pairs import turned
from ptycho_bluesky.inference._simulation import as_built, random_design, simulate_shard
from ptycho_bluesky.inference._training import train_network

SIZES = ProbeViTSizes(size=16, width=16, depth=1, heads=2, features=2, hidden=8, iterations=1)
OPTIONS = TrainingOptions(steps=12, batch=8, shard=32, repeats=2, validate_every=4, validation_frames=32)


def weights_of(network) -> dict[str, np.ndarray]:
    return {k: v.numpy().copy() for k, v in network.state_dict().items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


def test_same_seed_same_weights_bit_for_bit():
    first, state = train_network(OPTIONS, SIZES)
    second, _ = train_network(OPTIONS, SIZES)
    other, _ = train_network(OPTIONS.model_copy(update={"seed": 1}), SIZES)
    assert same(weights_of(first), weights_of(second))
    assert not same(weights_of(first), weights_of(other))
    assert state.curves["step"] == [4, 8, 12]
    assert state.step == state.steps == 12


def test_the_loss_falls():
    options = TrainingOptions(steps=60, batch=16, shard=64, repeats=15, learning_rate=5e-3, validate_every=15)
    _, state = train_network(options, SIZES)
    assert state.curves["loss"][-1] < 0.95 * state.curves["loss"][0]


@pytest.mark.parametrize("stop", [3, 4, 7, 9])  # within a shard, at a validation, near and behind a change of shard
def test_resumed_training_equals_an_uninterrupted_one(tmp_path, stop):
    whole, _ = train_network(OPTIONS, SIZES)
    asked = iter(range(1000))
    half, state = train_network(OPTIONS, SIZES, checkpoint=tmp_path / "c.pt", should_stop=lambda: next(asked) >= stop)
    assert state.step == stop
    assert not same(weights_of(whole), weights_of(half))
    resumed, state = train_network(OPTIONS, SIZES, checkpoint=tmp_path / "c.pt")
    assert state.step == 12
    assert state.curves["step"] == [4, 8, 12]
    assert same(weights_of(whole), weights_of(resumed))


def test_checkpoint_of_another_training_is_refused(tmp_path):
    options = OPTIONS.model_copy(update={"steps": 2})
    train_network(options, SIZES, checkpoint=tmp_path / "c.pt")
    with pytest.raises(InferenceError, match="other learning_rate"):
        train_network(options.model_copy(update={"learning_rate": 1e-4}), SIZES, checkpoint=tmp_path / "c.pt")
    (tmp_path / "c.pt").write_bytes(b"no checkpoint")
    with pytest.raises(InferenceError, match="cannot be read"):
        train_network(options, SIZES, checkpoint=tmp_path / "c.pt")


def test_train_writes_a_model_file(tmp_path):
    seen = []
    model = train(tmp_path / "mine.safetensors", OPTIONS, SIZES, on_state=lambda state: seen.append(state.step))
    assert seen == [4, 8, 12]
    again = load_model(tmp_path / "mine.safetensors")
    assert again.content_hash == model.content_hash
    assert again.notes["steps"] == 12
    assert again.notes["options"]["steps"] == 12
    assert len(again.notes["curves"]["validation_loss"]) == 3
    assert set(again.notes["validation"]) == {"step", "loss", "validation_loss", "validation_correlation"}


def test_train_for_one_probe_of_another_frame_size(tmp_path):
    probe = random_design(32, np.random.default_rng(1))
    model = train(tmp_path / "mine.safetensors", OPTIONS.model_copy(update={"steps": 2}), SIZES, probe=probe)
    assert "one beamline" in model.notes["data"]
    patches = model.for_probe(probe, None, 32)(np.ones((1, 32, 32), np.float32))
    assert patches.phase.shape == (1, 16, 16)


def test_train_refuses(tmp_path):
    with pytest.raises(InferenceError, match=r"end in .safetensors"):
        train(tmp_path / "mine.npz", OPTIONS, SIZES)
    with pytest.raises(InferenceError, match="probe has shape"):
        train(tmp_path / "mine.safetensors", OPTIONS, SIZES, probe=np.ones((4, 4), np.complex64))
    with pytest.raises(InferenceError, match="diverged"):
        train(tmp_path / "m.safetensors", OPTIONS.model_copy(update={"learning_rate": 1e30}), SIZES)
    assert not list(tmp_path.iterdir())


def test_thread_count_is_given_back():
    before = torch.get_num_threads()
    train_network(OPTIONS.model_copy(update={"steps": 1, "threads": before + 1}), SIZES)
    assert torch.get_num_threads() == before


# simulated frames ---------------------------------------------------------------------------------------------------


def test_shards_are_reproducible_and_differ():
    a, b, c = (simulate_shard((0, k), 32, 32) for k in (1, 1, 2))
    for name in ("frames", "objects", "probes", "good"):
        assert (getattr(a, name) == getattr(b, name)).all()
    assert not (a.frames == c.frames).all()
    with pytest.raises(InferenceError, match="multiples of 16"):
        simulate_shard((0,), 20, 32)


def test_simulated_frames_are_what_the_network_is_told():
    shard = simulate_shard((5,), 64, 32)
    assert np.isfinite(shard.frames).all()
    assert (shard.frames >= 0).all()
    totals = np.where(shard.good[shard.owner], shard.frames, 0).sum(axis=(1, 2))
    assert totals.min() > 3e3
    assert totals.max() < 5e6
    light = (np.abs(shard.probes[shard.owner]) ** 2).sum(axis=1)
    np.testing.assert_allclose(light.sum(axis=(1, 2)), 1, atol=1e-4)
    mean = (light * shard.objects).sum(axis=(1, 2))
    np.testing.assert_allclose(mean.imag, 0, atol=1e-4)
    np.testing.assert_allclose((light * np.abs(shard.objects) ** 2).sum(axis=(1, 2)), 1, atol=1e-3)


def test_one_probe_stays_nearly_that_probe():
    rng = np.random.default_rng(0)
    probe = random_design(32, rng)
    shard = simulate_shard((5,), 32, 32, Conditions(probe))
    for given_probe in shard.probes:
        overlap = (
            abs((given_probe[0].conj() * probe[0]).sum()) / np.linalg.norm(probe[0]) / np.linalg.norm(given_probe[0])
        )
        assert overlap == pytest.approx(1, abs=1e-3)
    built = as_built(probe, rng)
    overlap = abs((built.conj() * probe).sum())
    assert 0.5 < overlap < 0.9999


@given(turn=st.tuples(*[st.booleans()] * 3), size=st.sampled_from([16, 32]), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_turning_probe_and_object_turns_the_frame(turn, size, seed):
    rng = np.random.default_rng(seed)
    wave = rng.standard_normal((size, size)) + 1j * rng.standard_normal((size, size))

    def frame(exit_wave):
        return np.fft.fftshift(np.abs(np.fft.fft2(exit_wave)) ** 2)

    np.testing.assert_allclose(
        frame(turned(wave, np.array(turn))), turned(frame(wave), np.array(turn)), rtol=1e-9, atol=1e-9
    )


def test_measures():
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(np.exp(1j * rng.standard_normal((3, 8, 8)))).to(torch.complex64)
    light = torch.ones(3, 8, 8)
    assert float(weighted_error(truth, truth, light)) == pytest.approx(0.01)
    assert phase_agreement(truth * np.exp(0.7j), truth, light) == pytest.approx(1, abs=1e-3)
    assert phase_agreement(truth, torch.ones_like(truth), light) == 0
