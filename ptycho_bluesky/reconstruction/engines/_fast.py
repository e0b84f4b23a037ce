"""The fast engine: frames one by one in random order, rPIE with several modes and an annealed step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, Field

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction._guess import guess_probe
from ptycho_bluesky.reconstruction._modes import orthogonal_modes
from ptycho_bluesky.reconstruction._problem import Problem, prepare
from ptycho_bluesky.reconstruction.engines._options import EngineOptions
from ptycho_bluesky.reconstruction.engines._state import EngineState
from ptycho_bluesky.reconstruction.kernels import Kernels, Steps, kernels_for

__all__ = ["FastEngine", "FastOptions"]

logger = logging.getLogger(__name__)


class FastOptions(EngineOptions):
    """Options of the fast engine. The defaults suit most far-field and near-field data.

    ``epochs=None`` takes 20,000 visits of a frame in all, but 30 to 100 epochs. The first half of them rounds positions
    to whole pixels, and the near field always does.
    """

    step: float = Field(default=1.0, gt=0, le=2)
    """Step of object and probe in the first epoch, in units of the full projection."""

    step_end: float = Field(default=0.1, gt=0, le=2)
    """Step of the last epoch; in between it falls geometrically. Too small too early freezes low frequencies."""

    alpha_object: float = Field(default=0.5, ge=0, le=1)
    """Regularisation of the object's step where the probe is weak: 1 is ePIE, towards 0 weak parts learn faster."""

    alpha_probe: float = Field(default=1.0, ge=0, le=1)
    """The same for the probe, where the object is dark."""

    probe_start: int = Field(default=1, ge=0)
    """First epoch that updates the probe."""


class FastEngine:
    """Sequential rPIE with mixed states, annealed.

    Maiden, Johnson and Li, Optica 4, 736 (2017); Thibault and Menzel, Nature 494, 68 (2013). Each frame acts at once,
    which wins the first epochs; the annealed step lets the noise average out in the last ones.

    An epoch that ends with a number that is not finite, or with an error far above the best, is taken back and tried
    with half the step; after `patience` such epochs in a row the engine gives up.

    Parameters
    ----------
    device:
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``...
    """

    name = "fast"
    options_type = FastOptions
    patience = 4
    rise = 1.5
    """An epoch whose R-factor is that many times the best one has diverged."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def run(self, dataset: PtychoDataset, options: BaseModel | None = None) -> Iterator[EngineState]:
        """Reconstruct; yield a state after each epoch.

        Raises
        ------
        DatasetError, ReconstructionError
            When the dataset cannot be used, the device is not there, or the iteration diverges.
        """
        chosen = FastOptions() if options is None else FastOptions.model_validate(options.model_dump())
        if dataset.probe is None and dataset.modality == "far-field":
            dataset = replace(dataset, probe=guess_probe(dataset.validate(), self._tried_out(chosen)))
        problem = prepare(dataset, chosen.modes, memory_gb=chosen.memory_gb)
        kernels = kernels_for(problem, self.device, chosen.kernels, chosen.threads)
        yield from self.iterate(problem, kernels, chosen)

    def _tried_out(self, options: FastOptions) -> Callable[[Problem], float]:
        """Return a function that gives the R-factor which a few epochs reach."""
        few = options.model_copy(update={"epochs": 5, "modes": 1, "subpixel": 1})

        def r_factor(problem: Problem) -> float:
            kernels = kernels_for(problem, self.device, few.kernels, few.threads)
            try:
                return min(state.r_factor for state in self.iterate(problem, kernels, few))
            except ReconstructionError:  # diverged: a start that is no good
                return np.inf

        return r_factor

    def iterate(self, problem: Problem, kernels: Kernels, options: FastOptions) -> Iterator[EngineState]:
        """Yield a state after each epoch, on given kernels."""
        rng, began = np.random.default_rng(options.seed), time.perf_counter()
        model, best, damping, failures = problem.start, np.inf, 1.0, 0
        divisions = options.subpixel if problem.propagator.reciprocal else 1
        epochs = options.epochs or int(np.clip(round(20_000 / len(problem)), 30, 100))
        epoch = 0
        while epoch < epochs:
            groups = problem.groups(model, divisions if 2 * epoch >= epochs else 1)
            swept = kernels.sweep(model, groups, self._steps(options, epoch, epochs, damping), rng)
            tried, error = swept.model, swept.error
            if not (np.isfinite(error) and tried.is_finite()) or error > self.rise * best:
                failures, damping = failures + 1, damping / 2
                if failures > self.patience:
                    raise ReconstructionError(
                        f"the reconstruction diverges: R-factor {error:.3g} in epoch {epoch + 1} after a best of "
                        f"{best:.3g}, and {self.patience} halvings of the step did not help; check positions (unit, "
                        "order, signs), orientation and probe, or begin with a smaller step"
                    )
                message = f"epoch {epoch + 1} diverged (R-factor {error:.3g}); taken back, step halved to {damping:.3g}"
                logger.warning("%s", message)
                continue
            model = replace(tried, probe=orthogonal_modes(tried.probe))
            message = f"step halved {failures} times" if failures else ""
            best, failures, epoch = min(best, error), 0, epoch + 1
            seconds = time.perf_counter() - began
            yield EngineState(epoch, epochs, error, seconds, model, problem, kernels, groups, message)

    @staticmethod
    def _steps(options: FastOptions, epoch: int, epochs: int, damping: float) -> Steps:
        progress = epoch / max(1, epochs - 1)
        step = damping * options.step * (options.step_end / options.step) ** progress
        probe = step if epoch >= options.probe_start else 0.0
        return Steps(step, probe, options.alpha_object, options.alpha_probe)
