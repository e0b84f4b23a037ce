"""Epochs of the LSQML engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._modes import orthogonal_modes
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._batch_model import BatchProblem, Light, ModelTensors
from ptycho_bluesky.reconstruction.engines._lsqml import LSQML_EPOCHS, LsqmlOptions
from ptycho_bluesky.reconstruction.engines._positions import PositionCorrection
from ptycho_bluesky.reconstruction.engines._state import EngineState
from ptycho_bluesky.reconstruction.engines._sums import TINY, derivatives
from ptycho_bluesky.reconstruction.engines._variation import VariationUpdate, with_variation

__all__ = ["best_steps", "least_squares"]

logger = logging.getLogger(__name__)

PATIENCE = 4

RISE = 1.5
"""An epoch whose R-factor is that many times the best one has diverged."""

SUBPIXEL_OF_CORRECTION = 4
"""Positions that are corrected are rounded to no more than a quarter of a pixel, or they could not be told."""

RIDGE = 0.1
"""Of the joint solution for two steps, in units of the mean diagonal: keeps apart frames that cannot tell them."""


def least_squares(
    problem: Problem,
    options: LsqmlOptions,
    device: str,
    batches: BatchProblem | None = None,
    done: int = 0,
    correction: PositionCorrection | None = None,
) -> Iterator[EngineState]:
    """Yield a state after each epoch, beginning at ``problem.start``.

    `batches` takes the place of the problem's own, for some of the frames and sums over all of them; `done` and
    `correction` are those of :func:`annealed`.

    Raises
    ------
    ReconstructionError
        When the iteration diverges.
    """
    batches = batches or BatchProblem(problem, device, options.threads, options.batch_size)
    rng, began = np.random.default_rng([options.seed, done] if done else options.seed), time.perf_counter()
    model = with_variation(problem, options.opr)
    if options.background and model.background is None:
        model = replace(model, background=np.zeros(model.probe.shape[-2:], np.float32))
    velocity, best, damping, failures, epoch = _Velocity(options.momentum), np.inf, 1.0, 0, done
    before = model  # the error of an epoch is that of the model it began with: at fault is the epoch before
    if correction is None and options.position_correction:
        correction = PositionCorrection(problem)
    divisions = max(options.subpixel, SUBPIXEL_OF_CORRECTION if correction else 1)
    divisions = divisions if problem.propagator.reciprocal else 1
    epochs = options.epochs or LSQML_EPOCHS
    while epoch < epochs:
        groups = problem.groups(model, divisions)
        tensors = ModelTensors(batches, model, groups, batches.floor(options.noise))
        tried = _Epoch(batches, tensors, options).run(damping * _step(options, epoch, epochs), rng)
        moved = tried.model
        if not (np.isfinite(tried.error) and moved.is_finite()) or tried.error > RISE * best:
            failures, damping, velocity, model = failures + 1, damping / 2, _Velocity(options.momentum), before
            if failures > PATIENCE:
                raise ReconstructionError(
                    f"the reconstruction diverges: R-factor {tried.error:.3g} in epoch {epoch + 1} after a best of "
                    f"{best:.3g}, and {PATIENCE} halvings of the step did not help; check positions (unit, order, "
                    "signs), orientation and probe, or begin at a result of engine 'fast'"
                )
            logger.warning("epoch %d diverged (R-factor %.3g); taken back, step halved", epoch + 1, tried.error)
            continue
        if options.batches == "compact":
            moved = velocity.carried_on(model, moved, tried.error)
        before, model = model, replace(moved, probe=_orthogonal(moved))
        message = f"step halved {failures} times" if failures else ""
        if correction and tried.shifts is not None:
            model = correction.apply(model, tried.shifts, epoch, epochs)
            groups = problem.groups(model, divisions)
            message = correction.report(model) if epoch + 1 == epochs else message
        best, failures, epoch = min(best, tried.error), 0, epoch + 1
        seconds = time.perf_counter() - began
        yield EngineState(epoch, epochs, tried.error, seconds, model, problem, batches, groups, message)


def _step(options: LsqmlOptions, epoch: int, epochs: int) -> float:
    progress = max(0.0, (3 * (epoch + 1) / epochs - 2))
    return float(options.step * (options.step_end / options.step) ** progress)


def _orthogonal(model: Model) -> ComplexArray:
    """Return the probe with orthogonal modes; the first stays what it is where a variation belongs to it."""
    if model.variation is None:
        return orthogonal_modes(model.probe)
    if model.probe.shape[1] == 1:
        return model.probe
    return np.concatenate([model.probe[:, :1], orthogonal_modes(model.probe[:, 1:])], axis=1)


class _Velocity:
    """Carries object and probe on along the move of an epoch (Nesterov), until the error rises.

    O'Donoghue and Candes, Foundations of Computational Mathematics 15, 715 (2015): restart by function value.
    """

    def __init__(self, momentum: float) -> None:
        self._momentum, self._error = momentum, np.inf
        self._object: ComplexArray | float = 0.0
        self._probe: ComplexArray | float = 0.0

    def carried_on(self, before: Model, after: Model, error: float) -> Model:
        if error > self._error:
            self._object = self._probe = 0.0
        self._error = error
        self._object = self._momentum * (self._object + after.object - before.object)
        self._probe = self._momentum * (self._probe + after.probe - before.probe)
        return replace(after, object=after.object + self._object, probe=after.probe + self._probe)


@dataclass(frozen=True)
class _Tried:
    model: Model
    error: float
    shifts: npt.NDArray[np.float64] | None


@dataclass
class _Sum:
    """What the batches of an epoch ask for together."""

    numerator: torch.Tensor
    weight: torch.Tensor

    def add(self, numerator: torch.Tensor, weight: torch.Tensor) -> None:
        self.numerator += numerator
        self.weight += weight

    def over(self, damping: float, peak: torch.Tensor) -> torch.Tensor:
        return self.numerator / (self.weight + damping * peak)


class _Epoch:
    """One pass over all batches."""

    def __init__(self, batches: BatchProblem, tensors: ModelTensors, options: LsqmlOptions) -> None:
        self._batches, self._tensors, self._options = batches, tensors, options
        self._waves = batches.waves
        self._to_object = _Sum(torch.zeros_like(tensors.object), torch.zeros_like(tensors.object.real))
        self._to_probe = _Sum(torch.zeros_like(tensors.probe), torch.zeros_like(tensors.probe[:, :1].real))
        self._excess = self._certainty = None
        if options.background and tensors.background is not None:
            self._excess, self._certainty = (torch.zeros_like(tensors.background) for _ in range(2))

    @torch.inference_mode()
    def run(self, step: float, rng: np.random.Generator) -> _Tried:
        """Move the model with every batch once."""
        options, tensors, waves = self._options, self._tensors, self._waves
        error = torch.zeros((), dtype=torch.float64, device=tensors.object.device)
        shifts = torch.zeros_like(tensors.corners, dtype=torch.float32) if options.position_correction else None
        variation = VariationUpdate(tensors, options.variation_step * step, rng) if options.opr else None
        for frames, amplitude in self._batches.batches(options.batches, rng):
            light = tensors.light(frames)
            there = waves.to_detector(tensors.exit_waves(light))
            self._see_background(there, amplitude)
            there, seen = waves.project(there, amplitude, tensors.pedestal, options.noise)
            error += seen.sum(dtype=torch.float64)
            residual = waves.to_sample(there) - tensors.exit_waves(light)
            if options.noise == "poisson":
                residual /= 2  # twice the gaussian curvature
            if shifts is not None:
                shifts[frames] = waves.shifts(residual, tensors.object, light.probes, light.groups, light.corners)
            if variation is not None:
                variation.add(frames, residual, light)
            self._move(frames, residual, light, step)
        self._move_all()
        if variation is not None:
            variation.apply()
        model = tensors.model()
        if not model.is_finite():
            error += torch.nan
        self._batches.sums("errors", error, *([] if shifts is None else [shifts]))
        found = None if shifts is None else shifts.cpu().numpy().astype(np.float64)
        return _Tried(model, float(error) / self._batches.problem.total, found)

    def _see_background(self, there: torch.Tensor, amplitude: torch.Tensor) -> None:
        """Add to the derivatives of the loss by the background, from waves on the detector."""
        if self._excess is None or self._certainty is None:
            return
        counts = self._tensors.intensity(there).clamp_min(TINY)
        first, second = derivatives(counts, amplitude, self._options.noise, expected=True)
        self._excess += torch.where(amplitude >= 0, first, 0).sum(dim=0)
        self._certainty += torch.where(amplitude >= 0, second, 0).sum(dim=0)

    def _move(self, frames: torch.Tensor, residual: torch.Tensor, light: Light, step: float) -> None:
        """Move the probe, and with sparse batches the object, by a batch's residual waves (B, M, H, W)."""
        tensors, waves, damping = self._tensors, self._waves, self._options.damping
        numerator, weight = torch.zeros_like(tensors.object), torch.zeros_like(tensors.object.real)
        waves.add_object(numerator, weight, residual, light.probes, light.groups, light.corners)
        to_object = numerator / (weight + damping * weight.amax())
        gradient, bright = torch.zeros_like(tensors.copies), torch.zeros_like(tensors.copies[:, 0].real)
        mine = tensors.of_frame[frames]
        waves.add_probe(gradient, bright, residual, tensors.object, mine, light.corners)
        gradient, bright = tensors.gather(gradient), tensors.gather_weight(bright)[:, None]
        to_probe = gradient / (bright + damping * bright.amax())
        along_object = waves.exit_waves(to_object, light.probes, light.groups, light.corners)
        along_probe = waves.exit_waves(tensors.object, tensors.spread(to_probe), mine, light.corners)
        steps = step * best_steps(residual, along_object, along_probe).mean(dim=0)
        if self._options.batches == "sparse":
            tensors.object += steps[0] * to_object
            tensors.probe += steps[1] * to_probe
            tensors.spread_probes()
        else:
            self._to_object.add(steps[0] * numerator, weight)
            self._to_probe.add(steps[1] * gradient, bright)

    def _move_all(self) -> None:
        """Move what moves once an epoch."""
        tensors, damping, to_object, to_probe = self._tensors, self._options.damping, self._to_object, self._to_probe
        if self._options.batches == "compact":
            peak = self._batches.object_sums(to_object.numerator, to_object.weight)
            tensors.object += to_object.over(damping, peak)
            self._batches.sums("the probe", to_probe.numerator, to_probe.weight)
            tensors.probe += to_probe.over(damping, to_probe.weight.amax())
        if tensors.background is not None and self._excess is not None and self._certainty is not None:
            self._batches.sums("the background", self._excess, self._certainty)
            newton = -self._excess / self._certainty.clamp_min(TINY)
            tensors.background += self._options.background_step * newton
            tensors.background.clamp_min_(0)


def best_steps(residual: torch.Tensor, along_object: torch.Tensor, along_probe: torch.Tensor) -> torch.Tensor:
    """Return (B, 2), the steps s, t >= 0 that bring ``s along_object + t along_probe`` closest to the residual waves.

    All waves are (B, M, H, W). Odstrcil, Menzel and Guizar-Sicairos, Optics Express 26, 3108 (2018), eq. 22-23.
    """

    def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.real * b.real + a.imag * b.imag).sum(dim=(1, 2, 3))

    oo, pp, op = inner(along_object, along_object), inner(along_probe, along_probe), inner(along_object, along_probe)
    o, p = inner(along_object, residual), inner(along_probe, residual)
    oo, pp = oo + RIDGE * oo.mean(), pp + RIDGE * pp.mean()
    determinant = (oo * pp - op**2).clamp_min(1e-30)
    return torch.stack([(pp * o - op * p) / determinant, (oo * p - op * o) / determinant], dim=1).clamp(0, 1)
