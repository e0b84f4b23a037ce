"""Nonlinear conjugate gradients down the likelihood."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ptycho_bluesky.config import settings
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction._modes import orthogonal_modes
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._batch_model import BatchProblem
from ptycho_bluesky.reconstruction.engines._likelihood import Likelihood, Point, Slope
from ptycho_bluesky.reconstruction.engines._ml import MlOptions
from ptycho_bluesky.reconstruction.engines._state import EngineState
from ptycho_bluesky.reconstruction.kernels._choice import takes_numba

__all__ = ["conjugate_gradients", "step_down"]

HALVINGS = 4
"""Of a step that has raised the loss, before its direction is given up."""


def conjugate_gradients(problem: Problem, options: MlOptions, device: str) -> Iterator[EngineState]:
    """Yield a state after each step, beginning at ``problem.start``; end early where no step lowers the loss."""
    batches = BatchProblem(problem, device, options.threads, options.batch_size)
    began, start = time.perf_counter(), problem.start
    if options.background and start.background is None:
        start = replace(start, background=np.zeros(start.probe.shape[-2:], np.float32))
    groups = problem.groups(start, options.subpixel if problem.propagator.reciprocal else 1)
    sums = None
    if start.variation is None and takes_numba(problem, device, options.kernels):
        from ptycho_bluesky.reconstruction.engines._cpu_sums import CpuSums  # numba takes a second to import

        sums = CpuSums(problem, groups, options.threads or settings().threads)
    judge = sums or batches
    likelihood = Likelihood(
        batches, start, groups, options.noise, options.damping, options.smooth, options.background, sums
    )
    point = likelihood.start
    slope = likelihood.slope(point)
    direction, epochs = slope.downhill, options.epochs or 40
    for epoch in range(1, epochs + 1):
        found = step_down(likelihood, point, slope, direction) or step_down(likelihood, point, slope, slope.downhill)
        seconds = time.perf_counter() - began
        if found is None:
            model, message = _presented(likelihood.model(point)), "ended: no step lowers the loss any more"
            yield EngineState(epoch, epoch, slope.r_factor, seconds, model, problem, judge, groups, message)
            return
        point, before, slope = found[0], slope, found[1]
        change = slope.gradient.plus(-1, before.gradient)
        beta = slope.downhill.dot(change) / before.downhill.dot(before.gradient)
        direction = slope.downhill.plus(max(0.0, beta), direction)
        model = _presented(likelihood.model(point))
        yield EngineState(epoch, epochs, slope.r_factor, seconds, model, problem, judge, groups)


def step_down(likelihood: Likelihood, point: Point, slope: Slope, direction: Point) -> tuple[Point, Slope] | None:
    """Return a point along the direction with a lower loss, and the slope there; None where none is found."""
    descent = -slope.gradient.dot(direction)
    if not descent > 0:
        return None
    step = descent / likelihood.curvature(point, direction)
    for _ in range(HALVINGS):
        there = likelihood.moved(point, step, direction)
        found = likelihood.slope(there)
        if found.loss < slope.loss:
            return there, found
        step /= 2
    return None


def _presented(model: Model) -> Model:
    """Return the model with orthogonal modes; as it is where a variation belongs to the first of them."""
    return model if model.variation is not None else replace(model, probe=orthogonal_modes(model.probe))
