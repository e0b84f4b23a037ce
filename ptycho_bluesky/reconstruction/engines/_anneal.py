"""Annealed rPIE: frames one by one in random order, with several modes and a step that falls."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from pydantic import Field

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._modes import orthogonal_modes
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._options import EngineOptions
from ptycho_bluesky.reconstruction.engines._positions import SETTLING, PositionCorrection
from ptycho_bluesky.reconstruction.engines._state import EngineState
from ptycho_bluesky.reconstruction.kernels import Kernels, Steps

__all__ = ["FastOptions", "annealed", "fast_epochs"]

logger = logging.getLogger(__name__)


class FastOptions(EngineOptions):
    """Options of the fast engine. The defaults suit most far-field and near-field data.

    ``epochs=None`` takes 20,000 visits of a frame in all, but 30 to 100 epochs. The first half of them rounds positions
    to whole pixels where the object begins empty, and the near field always does.
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

    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Share of its velocity with which the object goes on after each epoch (mPIE); 0 for none."""

    coarse_epochs: int = Field(default=8, ge=0, le=1000)
    """Epochs, each a quarter of the work, with the middle of the patterns and object pixels twice as large, before the
    first epoch: low frequencies come sooner. 0 for none; far field with amplitudes in memory alone."""


PATIENCE = 4

SUBPIXEL_OF_CORRECTION = 4
"""Positions that are corrected are rounded to no more than a quarter of a pixel, or they could not be told."""

GENTLE = 0.3
"""First step from an image that is nearly right."""

RISE = 1.5
"""An epoch whose R-factor is that many times the best one has diverged."""


def annealed(
    problem: Problem,
    kernels: Kernels,
    options: FastOptions,
    warm: bool = False,
    done: int = 0,
    correction: PositionCorrection | None = None,
) -> Iterator[EngineState]:
    """Yield a state after each epoch, beginning at ``problem.start``.

    `warm` is for a start that is sharp already, which positions rounded to whole pixels would blur; `done` the epochs
    that ``problem.start`` has seen already, to go on where another run ended; `correction` what takes the place of the
    usual one where positions are corrected.

    An epoch that ends with a number that is not finite, or with an error far above the best, is taken back and tried
    with half the step; after `PATIENCE` such epochs in a row it gives up.

    Raises
    ------
    ReconstructionError
        When the iteration diverges.
    """
    rng, began = np.random.default_rng([options.seed, done] if done else options.seed), time.perf_counter()
    model, best, damping, failures = problem.start, np.inf, 1.0, 0
    velocity = np.zeros_like(model.object)
    if correction is None and options.position_correction:
        correction = PositionCorrection(problem)
    finest = max(options.subpixel, SUBPIXEL_OF_CORRECTION if correction else 1)
    finest = finest if problem.propagator.reciprocal else 1
    epochs = options.epochs or fast_epochs(len(problem))
    epoch = done
    while epoch < epochs:
        divisions = finest if warm or (3 if correction else 2) * epoch >= epochs else 1
        groups = problem.groups(model, divisions)
        swept = kernels.sweep(model, groups, _steps(options, epoch, epochs, damping), rng)
        tried, error = swept.model, swept.error
        if not (np.isfinite(error) and tried.is_finite()) or error > RISE * best:
            failures, damping, velocity = failures + 1, damping / 2, np.zeros_like(velocity)
            if failures > PATIENCE:
                raise ReconstructionError(
                    f"the reconstruction diverges: R-factor {error:.3g} in epoch {epoch + 1} after a best of "
                    f"{best:.3g}, and {PATIENCE} halvings of the step did not help; check positions (unit, "
                    "order, signs), orientation and probe, or begin with a smaller step"
                )
            message = f"epoch {epoch + 1} diverged (R-factor {error:.3g}); taken back, step halved to {damping:.3g}"
            logger.warning("%s", message)
            continue
        if options.momentum:  # Maiden, Johnson and Li, Optica 4, 736 (2017), eq. 20 and 21, once an epoch
            velocity = options.momentum * velocity + tried.object - model.object
            tried = replace(tried, object=tried.object + np.float32(options.momentum) * velocity)
        model = replace(tried, probe=orthogonal_modes(tried.probe))
        message = f"step halved {failures} times" if failures else ""
        if correction and swept.shifts is not None and (warm or epoch >= SETTLING):
            model = correction.apply(model, swept.shifts, epoch, epochs)
            groups = problem.groups(model, divisions)
            message = correction.report(model) if epoch + 1 == epochs else message
        best, failures, epoch = min(best, error), 0, epoch + 1
        seconds = time.perf_counter() - began
        yield EngineState(epoch, epochs, error, seconds, model, problem, kernels, groups, message)


def fast_epochs(frames: int) -> int:
    """Return the epochs that suit a number of frames: 20,000 visits of a frame in all, but 30 to 100 epochs."""
    return int(np.clip(round(20_000 / frames), 30, 100))


def _steps(options: FastOptions, epoch: int, epochs: int, damping: float) -> Steps:
    progress = epoch / max(1, epochs - 1)
    step = damping * options.step * (options.step_end / options.step) ** progress
    probe = step if epoch >= options.probe_start else 0.0
    return Steps(step, probe, options.alpha_object, options.alpha_probe, find_shifts=options.position_correction)
