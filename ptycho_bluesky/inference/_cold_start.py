"""Cold start: from a beamline's first reconstruction to a network for its live image, in minutes, without any pair.

The shipped network serves any probe; here it is trained further on simulated frames of this one, with the dose, the
mask, the jitter and the contrast of the beamline. No measured pair is needed: the reconstruction gives the probe.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.inference._batches import Batch, batch_of
from ptycho_bluesky.inference._conditions import Conditions
from ptycho_bluesky.inference._losses import light_of, weighted_error
from ptycho_bluesky.inference._model import DEFAULT_MODEL, ProbeViTModel, load_model
from ptycho_bluesky.inference._simulation import simulate_shard
from ptycho_bluesky.inference._train import train
from ptycho_bluesky.inference._training import VALIDATION_SHARD, chosen_device
from ptycho_bluesky.inference._training_options import TrainingOptions, TrainingState

__all__ = ["cold_start", "paced_options"]

MOST_STEPS = 4000
"""More brings next to nothing for one probe."""

LEAST_STEPS = 50
START_UP = 0.9
"""Share of the time that steps may take; the rest is for the held-out frames and what the machine does besides."""


def cold_start(
    output: str | Path,
    reconstruction: Reconstruction,
    dataset: PtychoDataset | None = None,
    *,
    seconds: float = 540.0,
    options: TrainingOptions | None = None,
    start_from: str | Path | ProbeViTModel = DEFAULT_MODEL,
    blur_px: float = 0.0,
    checkpoint: str | Path | None = None,
    on_state: Callable[[TrainingState], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ProbeViTModel:
    """Train a network for the live image of one beamline on simulated frames alone, and write its model file.

    Parameters
    ----------
    output:
        Model file to write, ``.safetensors``.
    reconstruction:
        The first one there: its probe modes, dose and phase contrast are used; its object is not.
    dataset:
        Frames of the beamline, for the spread of the dose and the mask.
    seconds:
        Time to spend; steps and precision are chosen for it by a short measurement.
    options:
        How to train, in place of that choice.
    start_from:
        Weights to begin with.
    blur_px:
        How far the sample moves while a frame is taken, object pixels.
    checkpoint, on_state, should_stop:
        As for :func:`train`.

    Raises
    ------
    InferenceError
        When the reconstruction is a near-field one, does not fit the frames, or the time is too short.
    """
    if reconstruction.modality != "far-field":
        raise InferenceError(
            f"the reconstruction is a {reconstruction.modality} one; the networks know the far field alone"
        )
    conditions = Conditions.of(
        reconstruction.probe, dataset, contrast_rad=reconstruction.phase_contrast_rad, blur_px=blur_px
    )
    model = start_from if isinstance(start_from, ProbeViTModel) else load_model(start_from)
    if not isinstance(model, ProbeViTModel):
        raise InferenceError(f"{start_from} is a PtychoNN, which is not trained here; start from a ProbeViT")
    return train(
        output,
        options or paced_options(model, conditions, seconds),
        conditions=conditions,
        start_from=model,
        checkpoint=checkpoint,
        on_state=on_state,
        should_stop=should_stop,
    )


def paced_options(model: ProbeViTModel, conditions: Conditions, seconds: float) -> TrainingOptions:
    """Return the options of a training of `model` that takes `seconds` here, by a measurement of a few steps.

    Raises
    ------
    InferenceError
        When the time is too short for a training.
    """
    cores = len(os.sched_getaffinity(0))
    options = TrainingOptions(learning_rate=1e-3, shard=512, threads=min(cores, 8), device="auto")
    began = time.perf_counter()
    shard = simulate_shard((options.seed, VALIDATION_SHARD), options.batch, model.network.sizes.size, conditions)
    simulation = (time.perf_counter() - began) / options.repeats  # beside the optimiser where there is a second core
    device, before = chosen_device(options.device), torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        batch = batch_of(shard, np.arange(len(shard))).to(device)
        pace = {half: _step_seconds(model, batch, half) for half in (False, True)}
    finally:
        torch.set_num_threads(before)
    half = pace[True] < pace[False]
    step = max(pace[half], simulation) if cores > 1 else pace[half] + simulation
    left = seconds - (time.perf_counter() - began)
    steps = min(MOST_STEPS, int(START_UP * left / step))
    if steps < LEAST_STEPS:
        raise InferenceError(
            f"{seconds:.0f} s are enough for {max(steps, 0)} steps here; give at least "
            f"{LEAST_STEPS * step / START_UP + time.perf_counter() - began:.0f} s"
        )
    every = max(1, steps // 8)
    return options.model_copy(update={"steps": steps, "bfloat16": half, "validate_every": every})


def _step_seconds(model: ProbeViTModel, batch: Batch, half: bool) -> float:
    """Return how long one step takes, the best of three."""
    network, best = copy.deepcopy(model.network).to(batch.frames.device).train(), float("inf")
    for _ in range(3):
        began = time.perf_counter()
        with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=half):
            made = network(batch.frames, batch.probes, batch.good)[1]
        if batch.objects is not None:
            weighted_error(made, batch.objects, light_of(batch.probes)).backward()  # type: ignore[no-untyped-call]
        if batch.frames.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best
