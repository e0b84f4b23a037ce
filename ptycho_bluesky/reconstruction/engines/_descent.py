"""Descent along the gradient of a loss, by an optimiser of torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._amplitudes import Block
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._autodiff import AutodiffOptions
from ptycho_bluesky.reconstruction.engines._differentiable import DifferentiableModel, ModelEvaluator, batches
from ptycho_bluesky.reconstruction.engines._state import EngineState
from ptycho_bluesky.reconstruction.kernels._torch import device_named

__all__ = ["Loss", "descended", "optimizer_named"]

EPS = 1e-6
"""Counts that keep roots and logarithms finite; far below one."""


class Loss:
    """Of expected counts against measured amplitudes, in units of the squared amplitude of the probe's peak.

    All three are half the squared difference of amplitudes near the optimum: Godard et al., Optics Express 20, 25914
    (2012); the one of intensities for pixels as bright as `typical`.

    Parameters
    ----------
    kind:
        ``"amplitude"``, ``"poisson"`` or ``"intensity"``.
    peak:
        Largest modulus of the probe.
    typical:
        Counts of a bright pixel.
    """

    def __init__(self, kind: str, peak: float, typical: float) -> None:
        self._kind, self._unit, self._typical = kind, peak**2, typical

    def __call__(self, counts: torch.Tensor, amplitude: torch.Tensor) -> torch.Tensor:
        """Return the sum over good pixels of counts (B, H, W); amplitudes (B, H, W) below 0 are bad pixels."""
        good, measured = amplitude >= 0, amplitude**2
        if self._kind == "amplitude":
            each = ((counts + EPS).sqrt() - amplitude) ** 2 / 2
        elif self._kind == "poisson":
            each = (counts - measured - torch.xlogy(measured, (counts + EPS) / (measured + EPS))) / 4
        else:
            each = (counts - measured) ** 2 / (8 * self._typical)
        return torch.where(good, each, 0).sum() / self._unit


def total_variation(obj: torch.Tensor) -> torch.Tensor:
    """Return the sum of the moduli of the object's slopes (Rudin, Osher and Fatemi, Physica D 60, 259 (1992))."""
    rows, columns = obj[:, 1:, :-1] - obj[:, :-1, :-1], obj[:, :-1, 1:] - obj[:, :-1, :-1]
    return (rows.square() + columns.square()).sum(dim=-1).add(EPS).sqrt().sum()


def optimizer_named(
    name: str, parameters: dict[str, list[torch.nn.Parameter]], rates: dict[str, float], options: dict[str, Any]
) -> torch.optim.Optimizer:
    """Return an optimiser of torch, with a rate for each kind of parameters where it can have several.

    Raises
    ------
    ReconstructionError
        When torch has none of this name, or it refuses options or parameters.
    """
    kinds = {
        key: kind
        for key, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
        if kind not in (torch.optim.Optimizer, torch.optim.SparseAdam)
    }
    if name not in kinds:
        raise ReconstructionError(f"torch has no optimizer {name!r}; allowed are {', '.join(sorted(kinds))}")
    groups: Any = [{"params": parameters[key], "lr": rates[key], "name": key} for key in parameters]
    given = dict(options)
    if name == "LBFGS":
        groups, given = [p for kind in parameters.values() for p in kind], {"lr": rates["object"], **options}
    try:
        return kinds[name](groups, **given)
    except (TypeError, ValueError) as error:
        raise ReconstructionError(
            f"optimizer {name!r} cannot begin with optimizer_options {options}: {error}; see the page of "
            f"torch.optim.{name} for what it takes"
        ) from error


class _Descent:
    """Goes over the frames and steps."""

    def __init__(self, problem: Problem, options: AutodiffOptions, device: torch.device) -> None:
        self._problem, self._options, self._device = problem, options, device
        self.net = DifferentiableModel(
            problem, problem.start, device, positions=options.position_correction, background=options.background,
            opr=options.opr, whole_pixels=options.subpixel == 1,
        )  # fmt: skip
        net = self.net
        kinds: dict[str, list[torch.nn.Parameter | None]] = {
            "object": [net.object],
            "probe": [net.probe],
            "positions": [net.positions],
            "background": [net.background],
            "opr": [net.variation, net.weights],
        }
        learned = {kind: [p for p in found if p is not None] for kind, found in kinds.items()}
        self._parameters = {kind: found for kind, found in learned.items() if found}
        rates = options.learning_rate.model_dump()
        self._optimizer = optimizer_named(options.optimizer, self._parameters, rates, options.optimizer_options)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        first = problem.amplitudes.of(problem.amplitudes.blocks[0][:16])
        self._loss = Loss(options.loss, net.peak, float(np.square(first).mean(axis=0).max()))
        self._rng = np.random.default_rng(options.seed)

    def _gradient(self, block: Block, amplitude: torch.Tensor, places: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a batch's gradient to the parameters'; return its loss and its part of the R-factor."""
        measured = amplitude[torch.from_numpy(block.rows[places]).to(self._device)]
        counts = self.net(torch.from_numpy(block.frames[places]).to(self._device))
        loss = self._loss(counts, measured)
        if self._options.total_variation:
            share = len(places) / len(self._problem)
            loss = loss + self._options.total_variation * share * total_variation(self.net.object)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            off = torch.where(measured >= 0, (counts.sqrt() - measured).abs(), 0).sum(dtype=torch.float64)
        return loss.detach(), off

    def _blocks(self) -> Iterator[tuple[Block, torch.Tensor]]:
        amplitudes = self._problem.amplitudes
        for block in amplitudes.load(self._rng.permutation(len(amplitudes.blocks))):
            yield block, torch.from_numpy(block.amplitude).to(self._device)

    def _set_rates(self, progress: float) -> None:
        factor = (1 + np.cos(np.pi * progress)) / 2 if self._options.schedule == "cosine" else 1.0
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _step(self, closure: Callable[[], torch.Tensor]) -> None:
        self._optimizer.step(closure)  # type: ignore[arg-type]

    def epoch(self, epoch: int, epochs: int) -> float:
        """Descend once over all frames; return the R-factor as each frame saw it before its step."""
        starts = {"probe": self._options.probe_start, "positions": self._options.position_start}
        for kind, parameters in self._parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(epoch >= starts.get(kind, 0))
        if self._options.optimizer == "LBFGS":
            return self._with_all_frames(epoch / epochs)
        error, done = torch.zeros((), dtype=torch.float64, device=self._device), 0
        for block, amplitude in self._blocks():
            for places in batches(block, self._options.batch, self._rng):
                self._set_rates((epoch + done / len(self._problem)) / epochs)
                seen: list[torch.Tensor] = []

                def closure(block: Block = block, amplitude: torch.Tensor = amplitude, places: np.ndarray = places,
                            seen: list[torch.Tensor] = seen) -> torch.Tensor:  # fmt: skip
                    self._optimizer.zero_grad()
                    loss, off = self._gradient(block, amplitude, places)
                    seen.append(off)
                    return loss

                self._step(closure)
                error += seen[0]
                done += len(places)
        return float(error) / self._problem.total

    def _with_all_frames(self, progress: float) -> float:
        self._set_rates(progress)
        errors: list[float] = []

        def closure() -> torch.Tensor:
            self._optimizer.zero_grad()
            total, error = torch.zeros((), device=self._device), 0.0
            for block, amplitude in self._blocks():
                for places in batches(block, self._options.batch, None):
                    loss, off = self._gradient(block, amplitude, places)
                    total, error = total + loss, error + float(off)
            errors.append(error)
            return total

        self._step(closure)
        return errors[0] / self._problem.total


def descended(problem: Problem, options: AutodiffOptions, device_name: str) -> Iterator[EngineState]:
    """Yield a state after each epoch, beginning at ``problem.start``."""
    device = device_named(device_name)
    if options.threads is not None and device.type == "cpu":
        torch.set_num_threads(options.threads)
    began, epochs = time.perf_counter(), options.epochs or 60
    descent = _Descent(problem, options, device)
    evaluator = ModelEvaluator(problem, device, whole_pixels=options.subpixel == 1 and not options.position_correction)
    for epoch in range(epochs):
        error = descent.epoch(epoch, epochs)
        model = descent.net.model()
        if not (np.isfinite(error) and model.is_finite()):
            raise ReconstructionError(
                f"epoch {epoch + 1} ended with numbers that are not finite (R-factor {error:.3g}): optimizer "
                f"{options.optimizer} runs away with learning_rate {options.learning_rate.model_dump()}; take smaller "
                "rates, and check positions, orientation and probe"
            )
        groups = problem.groups(model, options.subpixel)
        yield EngineState(epoch + 1, epochs, error, time.perf_counter() - began, model, problem, evaluator, groups)
