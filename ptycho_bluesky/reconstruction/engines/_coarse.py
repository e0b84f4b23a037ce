"""A start for positions that are wrong by tens of pixels: a soft object first, then a search for lost frames."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._modes import orthogonal_modes
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._positions import SETTLING, Pace, PositionCorrection, diameter_px
from ptycho_bluesky.reconstruction.kernels import Kernels, Steps

__all__ = ["located"]

logger = logging.getLogger(__name__)

TRIAL_EPOCHS = 8

WORTH_PX = 1.0
"""Root mean square movement during the trial from which the coarse stage is worth its time."""

WORTH_R = 0.98
"""The coarse stage is believed where the R-factor of a trial falls to that share of the one before it."""

EPOCHS = 40

SOFTNESS = 1 / 6
"""Width of the Gaussian that the object is smoothed with at first, in diameters of the probe."""

SHARP_FROM = 2 / 3
"""Share of the epochs after which the object is no longer smoothed."""

SEARCHES = {24: 0.3, 29: 0.3, 33: 0.2, 37: 0.1}
"""Epochs after which lost frames are searched for, and the share of frames, the worst explained, that may be lost."""

REACH, SPACING_PX = 0.45, 4
"""Radius of a search in diameters of the probe, and the distance of the places that are tried first."""

TRIAL_STEPS = Steps(object=1.0, probe=1.0, alpha_object=0.5, alpha_probe=1.0, find_shifts=True)

SOFT_PACE = Pace(prior=(0.1, 0.001), gain=(1.0, 1.0), damping=0.0)

SOFT_STEPS = Steps(object=0.3, probe=0.3, alpha_object=0.1, alpha_probe=1.0, find_shifts=True)
"""Small enough that the object is the mean of the frames rather than the word of the last one."""


def located(problem: Problem, kernels: Kernels, seed: int) -> Problem:
    """Return the problem, begun at corrected corners where these are wrong by more than a pixel.

    A trial of few epochs tells whether that may be so, and another one at the end whether it was. In between, an
    object smoothed with a Gaussian, whose width falls from epoch to epoch, widens the range from which gradients lead
    frames to their places; Maiden et al., Ultramicroscopy 120, 64 (2012) anneal trial shifts to that end. Frames that
    are still explained badly are tried at all places around.

    Parameters
    ----------
    problem:
        Where to begin.
    kernels:
        Of that problem.
    seed:
        Of the order of frames.
    """
    tried, given = _trial(problem, kernels, problem.start, seed)
    moved = float(np.sqrt(((tried.corners - problem.start.corners) ** 2).sum(axis=1).mean()))
    if moved < WORTH_PX:
        logger.info("positions: moved by %.2g pixels rms in a trial, no coarse stage", moved)
        return problem
    model = _coarse(problem, kernels, seed)
    start = replace(problem.start, corners=model.corners, probe=model.probe)
    _, found = _trial(problem, kernels, start, seed)
    message = PositionCorrection(problem).report(model)
    if found > WORTH_R * given:
        logger.info("positions: the coarse stage does not explain more (R-factor %.3f, before %.3f)", found, given)
        return problem
    logger.info("coarse stage: %s (R-factor of a trial %.3f, before %.3f)", message, found, given)
    return replace(problem, start=start)


def _trial(problem: Problem, kernels: Kernels, start: Model, seed: int) -> tuple[Model, float]:
    """Return the model after few epochs with correction and the R-factor seen in the last one."""
    rng, correction = np.random.default_rng(seed), PositionCorrection(problem, SOFT_PACE)
    model, error = start, np.inf
    for epoch in range(TRIAL_EPOCHS):
        model, error = _corrected(problem, kernels, model, TRIAL_STEPS, correction, epoch, TRIAL_EPOCHS, rng)
    return model, error


def _coarse(problem: Problem, kernels: Kernels, seed: int) -> Model:
    rng, correction = np.random.default_rng(seed), PositionCorrection(problem, SOFT_PACE)
    model = problem.start
    for epoch in range(EPOCHS):
        model, _ = _corrected(problem, kernels, model, SOFT_STEPS, correction, epoch, EPOCHS, rng)
        softness = SOFTNESS * (1 - epoch / (SHARP_FROM * EPOCHS)) * diameter_px(model.probe[0])
        if softness > 0:
            model = replace(model, object=_smoothed(model.object, softness))
        if epoch in SEARCHES:
            model = _searched(problem, model, SEARCHES[epoch])
    return model


def _corrected(
    problem: Problem,
    kernels: Kernels,
    model: Model,
    steps: Steps,
    correction: PositionCorrection,
    epoch: int,
    epochs: int,
    rng: np.random.Generator,
) -> tuple[Model, float]:
    """Return the model after one epoch, with corrected corners, and the R-factor seen."""
    swept = kernels.sweep(model, problem.groups(model, 1), steps, rng)
    model = replace(swept.model, probe=orthogonal_modes(swept.model.probe))
    if epoch < SETTLING or swept.shifts is None:
        return model, swept.error
    return correction.apply(model, swept.shifts, epoch, epochs), swept.error


def _smoothed(obj: ComplexArray, width: float) -> ComplexArray:
    def soft(part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(scipy.ndimage.gaussian_filter(part, (0, width, width)), np.float32)

    return np.asarray(soft(obj.real) + 1j * soft(obj.imag), np.complex64)


def _disc(radius: float, spacing: int) -> npt.NDArray[np.int64]:
    steps = np.arange(-int(radius // spacing), int(radius // spacing) + 1) * spacing
    places = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(places[(places**2).sum(axis=1) <= radius**2], np.int64)


def _searched(problem: Problem, model: Model, share: float) -> Model:
    """Move the worst explained frames to the places around where they are explained best."""
    from ptycho_bluesky.reconstruction.kernels._search import landscape  # imports numba: a second

    corners = np.rint(model.corners).astype(np.int64)

    def errors(frames: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        amplitude = problem.amplitudes.of(frames)
        found = landscape(model.object[0], model.probe[0], amplitude, places, problem.transfer)
        light = np.maximum(amplitude, 0).sum(axis=(1, 2), dtype=np.float64)
        return np.asarray(found / light[:, None])

    everyone = np.arange(len(corners))
    now = errors(everyone, corners[:, None])[:, 0]
    worst = np.argsort(now)[::-1][: max(1, int(share * len(corners)))]
    found, best = corners[worst], now[worst]
    offsets, spacing = _disc(REACH * diameter_px(model.probe[0]), SPACING_PX), SPACING_PX
    while spacing:
        tried = errors(worst, found[:, None] + offsets)
        chosen = tried.argmin(axis=1)
        better = tried.min(axis=1) < best
        found = np.where(better[:, None], found + offsets[chosen], found)
        best = np.where(better, tried.min(axis=1), best)
        spacing //= 2
        offsets = _disc(1.5 * spacing, spacing) if spacing else offsets
    moved = (found != corners[worst]).any(axis=1)
    placed = model.corners.copy()
    placed[worst[moved]] = found[moved]
    return replace(model, corners=placed)
