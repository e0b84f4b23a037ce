"""Training of ProbeViT: seeded, resumable, on one process or several, on simulated and on measured frames."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._batches import Batch, Batches, batch_of
from ptycho_bluesky.inference._conditions import Conditions
from ptycho_bluesky.inference._losses import amplitude_error, light_of, phase_agreement, weighted_error
from ptycho_bluesky.inference._pairs import TrainingPairs
from ptycho_bluesky.inference._ranks import Ranks
from ptycho_bluesky.inference._simulation import simulate_shard
from ptycho_bluesky.inference._training_options import TrainingOptions, TrainingState
from ptycho_bluesky.inference._vit import ProbeViT, ProbeViTSizes

__all__ = ["chosen_device", "train_network"]

VALIDATION_SHARD = 2**31
"""Number of the shard that is never trained on."""

HINDSIGHT = ("threads", "validate_every", "device")
"""Options that a training may be resumed with other values of."""


def chosen_device(name: str) -> torch.device:
    """Return the device of a name, ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    InferenceError
        When a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InferenceError("device is 'cuda', but torch finds no GPU here; give 'cpu' or 'auto'")
    if name == "cpu" or not there:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def _rate(step: int, options: TrainingOptions) -> float:
    """Return the learning rate of a step: linear rise, then half a cosine (a one-cycle schedule)."""
    warm = max(1, round(0.03 * options.steps))
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, options.steps - warm)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _load(checkpoint: Path, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
    if not checkpoint.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        begun = saved["fingerprint"]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise InferenceError(f"checkpoint {checkpoint} cannot be read ({error}); delete it to begin anew") from error
    if begun != fingerprint:
        other = sorted(k for k in fingerprint if begun.get(k) != fingerprint[k])
        raise InferenceError(
            f"checkpoint {checkpoint} belongs to a training with other {', '.join(other)}; give the same options to "
            "resume it, or another file (or delete it) to begin anew"
        )
    return saved


def _save(checkpoint: Path, contents: dict[str, Any]) -> None:
    scratch = checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.save(contents, scratch)
        scratch.replace(checkpoint)
    finally:
        scratch.unlink(missing_ok=True)


def train_network(
    options: TrainingOptions,
    sizes: ProbeViTSizes | None = None,
    *,
    conditions: Conditions | None = None,
    pairs: TrainingPairs | None = None,
    start_from: ProbeViT | None = None,
    checkpoint: Path | None = None,
    on_state: Callable[[TrainingState], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[ProbeViT, TrainingState]:
    """Train a network and return it with its learning curves.

    Under torchrun every process calls this with the same arguments; gradients are averaged (DistributedDataParallel),
    the first process validates and writes the checkpoint.

    Parameters
    ----------
    options:
        How.
    sizes:
        Of the network; None: those of `start_from`, else the default.
    conditions:
        Simulate this beamline's frames; None for all kinds of them.
    pairs:
        Measured frames to train on, beside simulated ones.
    start_from:
        Begin with its weights; it is left as it is.
    checkpoint:
        File that is written at every validation, and resumed from where it exists.
    on_state:
        Called at every validation, in the first process.
    should_stop:
        Asked at every step; when it says yes in any process, the checkpoint is written and the network returned as it
        is.

    Raises
    ------
    InferenceError
        When pairs, sizes and weights do not fit, the checkpoint belongs to another training, or the loss is no longer
        finite.
    """
    sizes = sizes or (ProbeViTSizes() if start_from is None else start_from.sizes)
    if start_from is not None and start_from.sizes != sizes:
        raise InferenceError(f"the network to start from has sizes {start_from.sizes}, asked for are {sizes}")
    if pairs is not None and pairs.size != sizes.size:
        raise InferenceError(f"the pairs are {pairs.size} pixels wide, the network is {sizes.size}; make them anew")
    train_on, held_out = (None, None) if pairs is None else pairs.split(options.held_out)
    fingerprint = _fingerprint(options, sizes, conditions, pairs, start_from)
    saved = None if checkpoint is None else _load(checkpoint, fingerprint)
    device = chosen_device(options.device)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    with Ranks.joined(device) as ranks:
        if options.batch % ranks.size:
            raise InferenceError(f"a batch of {options.batch} cannot be shared by {ranks.size} processes evenly")
        batches = Batches(options, sizes.size, conditions, train_on, ranks.rank, ranks.size)
        try:
            network = _begun(sizes, options.seed, start_from).to(device)
            optimiser = torch.optim.AdamW(
                network.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=options.weight_decay
            )
            state = TrainingState(steps=options.steps)
            if saved is not None:
                network.load_state_dict(saved["weights"])
                optimiser.load_state_dict(saved["optimiser"])
                state.step, state.curves = saved["step"], saved["curves"]
            if held_out is None and ranks.first:
                seed = (options.seed, VALIDATION_SHARD)
                held_out = simulate_shard(seed, options.validation_frames, sizes.size, conditions)
            parallel, start, losses = ranks.parallel(network), time.perf_counter(), []
            while state.step < options.steps:
                if ranks.any(should_stop is not None and should_stop(), device):
                    break
                batch = batches(state.step).to(device)
                losses.append(_step(parallel, optimiser, batch, state.step, options))
                state.step += 1
                if state.step % options.validate_every and state.step != options.steps:
                    continue
                if ranks.first and held_out is not None:
                    state.seconds = time.perf_counter() - start
                    _validate(network, held_out, options, state, float(np.mean(losses)))
                    if checkpoint is not None:
                        _save(checkpoint, _contents(network, optimiser, state, fingerprint))
                    if on_state is not None:
                        on_state(state)
                losses.clear()
            if state.step < options.steps and checkpoint is not None and ranks.first:
                _save(checkpoint, _contents(network, optimiser, state, fingerprint))
        finally:
            batches.close()
            torch.set_num_threads(threads_before)
    return network.cpu().eval(), state


def _begun(sizes: ProbeViTSizes, seed: int, start_from: ProbeViT | None) -> ProbeViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ProbeViT(sizes)
    if start_from is not None:
        network.load_state_dict(start_from.state_dict())
    return network


def _fingerprint(
    options: TrainingOptions,
    sizes: ProbeViTSizes,
    conditions: Conditions | None,
    pairs: TrainingPairs | None,
    start_from: ProbeViT | None,
) -> dict[str, Any]:
    """Return what a checkpoint must agree with to be resumed."""

    def digest(*arrays: Any) -> str:
        return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()

    begun = None if start_from is None else digest(*(v.numpy() for v in start_from.state_dict().values()))
    return {
        **options.model_dump(exclude=set(HINDSIGHT)),
        **sizes.to_json(),
        "conditions": None if conditions is None else conditions.to_json(),
        "pairs": None if pairs is None else digest(pairs.frames, pairs.probes),
        "start_from": begun,
    }


def _contents(
    network: ProbeViT, optimiser: torch.optim.Optimizer, state: TrainingState, fingerprint: dict[str, Any]
) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint,
        "weights": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": state.step,
        "curves": state.curves,
    }


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, step: int, options: TrainingOptions
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = _rate(step, options)
    with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=options.bfloat16):
        early, final = network(batch.frames, batch.probes, batch.good)
    loss = _loss(early, batch, options) + _loss(final, batch, options)
    value = loss.item()
    if not math.isfinite(value):
        raise InferenceError(f"the loss is {value} at step {step}: the training diverged; use a smaller learning_rate")
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return value / 2


def _loss(obj: Tensor, batch: Batch, options: TrainingOptions) -> Tensor:
    if batch.objects is None:
        return (options.physics or 1.0) * amplitude_error(obj, batch.frames, batch.probes, batch.good)
    loss = weighted_error(obj, batch.objects, light_of(batch.probes))
    if options.physics:
        loss = loss + options.physics * amplitude_error(obj, batch.frames, batch.probes, batch.good)
    return loss


def _validate(
    network: ProbeViT, held_out: TrainingPairs, options: TrainingOptions, state: TrainingState, loss: float
) -> None:
    network.eval()
    device, parts = next(network.parameters()).device, []
    with torch.inference_mode():
        for start in range(0, len(held_out), options.batch):
            batch = batch_of(held_out, np.arange(start, min(start + options.batch, len(held_out)))).to(device)
            parts.append((network(batch.frames, batch.probes, batch.good)[1], batch))
        error = float(
            np.average([_loss(obj, b, options).item() for obj, b in parts], weights=[len(o) for o, _ in parts])
        )
        agreement = math.nan
        if held_out.objects is not None:
            light = torch.cat([light_of(b.probes) for _, b in parts])
            truth = torch.cat([cast(Tensor, b.objects) for _, b in parts])
            agreement = phase_agreement(torch.cat([obj for obj, _ in parts]), truth, light)
    network.train()
    for name, value in zip(state.curves, (state.step, loss, error, agreement), strict=True):
        state.curves[name].append(round(float(value), 5))
