"""Training of ProbeViT on simulated frames: seeded, resumable, and the same for all beamlines or for one probe."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._simulation import Shard, simulate_shard
from ptycho_bluesky.inference._training_options import TrainingOptions, TrainingState
from ptycho_bluesky.inference._vit import ProbeViT, ProbeViTSizes

__all__ = ["phase_agreement", "train_network", "weighted_error"]

DIM = 0.05
"""Share of the probe's highest intensity at which a pixel counts half in the loss."""

VALIDATION_SHARD = 2**31
"""Number of the shard that is never trained on."""


def weighted_error(obj: Tensor, truth: Tensor, light: Tensor) -> Tensor:
    """Return the mean over frames of the light-weighted mean absolute error of complex patches (B, N, N)."""
    weight = light / (light + DIM)
    wrong = obj - truth
    error = torch.sqrt(wrong.real**2 + wrong.imag**2 + 1e-4)  # an absolute value with a round tip
    return ((weight * error).sum((1, 2)) / weight.sum((1, 2))).mean()


def phase_agreement(obj: Tensor, truth: Tensor, light: Tensor) -> float:
    """Return the light-weighted correlation of two patches' phases (B, N, N), the median over frames that show any."""
    share = light / light.sum((1, 2), keepdim=True)

    def centred(patch: Tensor) -> Tensor:
        phase = torch.angle(patch * (share * patch).sum((1, 2), keepdim=True).conj())
        return phase - (share * phase).sum((1, 2), keepdim=True)

    a, b = centred(obj), centred(truth)
    aa, bb, ab = ((share * u * v).sum((1, 2)) for u, v in ((a, a), (b, b), (a, b)))
    telling = bb > 0.02**2
    if not bool(telling.any()):
        return 0.0
    return float((ab / torch.sqrt(aa * bb + 1e-12))[telling].median())


def _turned(values: npt.NDArray[Any], transpose: bool, flip_rows: bool, flip_columns: bool) -> npt.NDArray[Any]:
    """Turn or mirror about the pixel N // 2, in both spaces alike, as the discrete Fourier transform wants it."""
    if transpose:
        values = np.swapaxes(values, -1, -2)
    for axis, flip in ((-2, flip_rows), (-1, flip_columns)):
        if flip:
            values = np.roll(np.flip(values, axis), 1, axis)
    return values


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def _batch(shard: Shard, index: npt.NDArray[np.integer[Any]], turn: npt.NDArray[np.bool_]) -> Batch:
    """Return frames, probes, good pixels and objects."""
    parts = (shard.frames[index], shard.probe_of(index), shard.good[index], shard.objects[index])
    a, b, c, d = (torch.from_numpy(np.ascontiguousarray(_turned(part, *turn))) for part in parts)
    return a, b, c, d


class _Shards:
    """Simulated frames; the next shard is made in a thread while this one is in use."""

    def __init__(self, options: TrainingOptions, size: int, probe: npt.NDArray[np.complex64] | None) -> None:
        self._options, self._size, self._probe = options, size, probe
        self._pool = ThreadPoolExecutor(1, "simulation")
        self._number = -1
        self._shard: Shard | None = None
        self._next = self._ask(0)

    def get(self, number: int) -> Shard:
        if self._number != number or self._shard is None:
            if self._number + 1 != number:  # a resumed training begins in the middle
                self._next = self._ask(number)
            self._number, self._shard = number, self._next.result()
            self._next = self._ask(number + 1)
        return self._shard

    def _ask(self, number: int) -> Future[Shard]:
        seed = (self._options.seed, number)
        return self._pool.submit(simulate_shard, seed, self._options.shard, self._size, self._probe)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _rate(step: int, options: TrainingOptions) -> float:
    """Return the learning rate of a step: linear rise, then half a cosine (a one-cycle schedule)."""
    warm = max(1, round(0.03 * options.steps))
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, options.steps - warm)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _choice(step: int, options: TrainingOptions) -> tuple[int, npt.NDArray[np.integer[Any]], npt.NDArray[np.bool_]]:
    """Return shard, frames in it and turn of a step; a function of the step alone, so a training can resume."""
    per_pass = max(1, options.shard // options.batch)
    number, within = divmod(step, per_pass * options.repeats)
    turn, place = divmod(within, per_pass)
    rng = np.random.default_rng((options.seed, number, turn))
    order, turns = rng.permutation(options.shard), rng.random((per_pass, 3)) < 0.5
    return number, order[place * options.batch : (place + 1) * options.batch], turns[place]


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
    probe: npt.NDArray[np.complex64] | None = None,
    checkpoint: Path | None = None,
    on_state: Callable[[TrainingState], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[ProbeViT, TrainingState]:
    """Train a network on simulated frames and return it with its learning curves.

    Parameters
    ----------
    options:
        How.
    sizes:
        Of the network.
    probe:
        (modes, N, N) complex64, N = ``sizes.size``: train for this beamline's probe and its like; None for all.
    checkpoint:
        File that is written at every validation, and resumed from where it exists.
    on_state:
        Called at every validation.
    should_stop:
        Asked at every step; when it says yes, the checkpoint is written and the network returned as it is.

    Raises
    ------
    InferenceError
        When the checkpoint belongs to another training, or the loss is no longer finite.
    """
    sizes = sizes or ProbeViTSizes()
    mark = "random" if probe is None else hashlib.sha256(np.ascontiguousarray(probe).tobytes()).hexdigest()
    fingerprint = {**options.model_dump(exclude={"threads", "validate_every"}), **sizes.to_json(), "probe": mark}
    saved = None if checkpoint is None else _load(checkpoint, fingerprint)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    shards = _Shards(options, sizes.size, probe)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = ProbeViT(sizes)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=options.weight_decay
        )
        state = TrainingState(steps=options.steps)
        if saved is not None:
            network.load_state_dict(saved["weights"])
            optimiser.load_state_dict(saved["optimiser"])
            state.step, state.curves = saved["step"], saved["curves"]
        held_out = simulate_shard((options.seed, VALIDATION_SHARD), options.validation_frames, sizes.size, probe)
        start, losses = time.perf_counter(), []
        while state.step < options.steps and not (should_stop is not None and should_stop()):
            number, index, turn = _choice(state.step, options)
            losses.append(_step(network, optimiser, _batch(shards.get(number), index, turn), state.step, options))
            state.step += 1
            if state.step % options.validate_every == 0 or state.step == options.steps:
                state.seconds = time.perf_counter() - start
                _validate(network, held_out, options, state, float(np.mean(losses)))
                losses.clear()
                if checkpoint is not None:
                    _save(checkpoint, _contents(network, optimiser, state, fingerprint))
                if on_state is not None:
                    on_state(state)
        if state.step < options.steps and checkpoint is not None:
            _save(checkpoint, _contents(network, optimiser, state, fingerprint))
    finally:
        shards.close()
        torch.set_num_threads(threads_before)
    return network.eval(), state


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
    network: ProbeViT, optimiser: torch.optim.Optimizer, batch: Batch, step: int, options: TrainingOptions
) -> float:
    frames, probes, good, objects = batch
    for group in optimiser.param_groups:
        group["lr"] = _rate(step, options)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
        early, final = network(frames, probes, good)
    light = _light(probes)
    loss = weighted_error(early, objects, light) + weighted_error(final, objects, light)
    value = loss.item()
    if not math.isfinite(value):
        raise InferenceError(f"the loss is {value} at step {step}: the training diverged; use a smaller learning_rate")
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return value / 2


def _light(probes: Tensor) -> Tensor:
    intensity = (probes.real**2 + probes.imag**2).sum(1)
    return intensity / intensity.amax((1, 2), keepdim=True)


def _validate(network: ProbeViT, held_out: Shard, options: TrainingOptions, state: TrainingState, loss: float) -> None:
    network.eval()
    finals, truths, lights = [], [], []
    with torch.inference_mode():
        for start in range(0, len(held_out), options.batch):
            index = np.arange(start, min(start + options.batch, len(held_out)))
            frames, probes, good, objects = _batch(held_out, index, np.zeros(3, bool))
            finals.append(network(frames, probes, good)[1])
            truths.append(objects)
            lights.append(_light(probes))
        final, truth, light = torch.cat(finals), torch.cat(truths), torch.cat(lights)
        error, agreement = float(weighted_error(final, truth, light)), phase_agreement(final, truth, light)
    network.train()
    for name, value in zip(state.curves, (state.step, loss, error, agreement), strict=True):
        state.curves[name].append(round(float(value), 5))
