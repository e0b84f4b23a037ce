"""Cold start: the first reconstruction is all that is needed."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.inference import Conditions, ProbeViTModel, TrainingOptions, cold_start, load_model
from ptycho_bluesky.inference._cold_start import MOST_STEPS, paced_options
from ptycho_bluesky.inference._simulation import random_design


def first_reconstruction(modality: str = "far-field") -> Reconstruction:
    probe = random_design(32, np.random.default_rng(1)) * np.float32(300)
    return Reconstruction(
        object=np.ones((1, 64, 64), np.complex64),
        probe=probe,
        positions=np.zeros((4, 2)),
        coverage=np.ones((64, 64), np.float32),
        origin=(0.0, 0.0),
        pixel_size_m=None,
        errors=np.array([0.1]),
        r_factor=0.1,
        phase_contrast_rad=0.6,
        engine="epie",
        modality=modality,  # type: ignore[arg-type]
    )


def test_a_network_comes_of_a_reconstruction_alone(tmp_path, small: ProbeViTModel):
    options = TrainingOptions(steps=2, batch=4, shard=16, validation_frames=16)
    rec = first_reconstruction()
    model = cold_start(tmp_path / "mine.safetensors", rec, options=options, start_from=small)
    again = load_model(tmp_path / "mine.safetensors")
    assert again.content_hash == model.content_hash
    assert again.notes["conditions"]["phase_rad"] == pytest.approx([0.2, 0.9])
    assert again.notes["conditions"]["photons"] == pytest.approx([45_000, 180_000], rel=1e-3)
    assert again.notes["steps"] == 2
    assert "measured" not in again.notes["data"]
    assert again.for_probe(rec.probe, None, 32)(np.ones((1, 32, 32), np.float32)).phase.shape == (1, 32, 32)


def test_steps_follow_the_time(small: ProbeViTModel, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    conditions = Conditions.of(first_reconstruction().probe)
    options = paced_options(small, conditions, 1e6)
    assert options.steps == MOST_STEPS
    assert options.validate_every == MOST_STEPS // 8
    with pytest.raises(InferenceError, match=r"are enough for 0 steps here; give at least"):
        paced_options(small, conditions, 1e-3)


def test_cold_start_refuses(tmp_path, small: ProbeViTModel):
    with pytest.raises(InferenceError, match="near-field"):
        cold_start(tmp_path / "m.safetensors", first_reconstruction("near-field"), start_from=small)
    assert not list(tmp_path.iterdir())
