"""Short reconstructions of a small part of a scan, to compare what might be true of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.spatial import cKDTree

from ptycho_bluesky.config import settings
from ptycho_bluesky.experiment import ObjectGrid, PtychoDataset, hilbert_order
from ptycho_bluesky.reconstruction._amplitudes import MemoryAmplitudes
from ptycho_bluesky.reconstruction._guess import DIAMETERS_IN_STEPS, curved
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction._multigrid import can_be_coarser, coarser
from ptycho_bluesky.reconstruction._problem import Problem, prepare
from ptycho_bluesky.reconstruction.kernels import Steps, kernels_for

__all__ = ["Trial", "begun", "best_of", "gathered", "moved", "part_of", "probe_widths", "small_problem", "try_out"]

Numbers = npt.NDArray[np.int64]

LOOKS = 5
"""Places of a scan among which the one with the most to see is taken."""

SAMPLE = 12
"""Frames looked at in each such place."""

MARGIN = 4
"""Object pixels around the outermost patches."""

SMALL = 64
"""Pixels of a frame that suffice for a trial, where they hold most of the light."""


@dataclass(frozen=True)
class Trial:
    """What a short reconstruction came to."""

    r_factor: float
    """With the best global scale; infinite where it diverged."""

    problem: Problem
    model: Model


def gathered(dataset: PtychoDataset, chosen: Numbers) -> PtychoDataset:
    """Return some frames in memory, read in runs of neighbours: a file is not read from end to end for a few."""
    runs = np.split(chosen, np.flatnonzero(np.diff(chosen) > 8) + 1)
    frames = [np.asarray(dataset.frames[int(run[0]) : int(run[-1]) + 1])[run - run[0]] for run in runs]
    return replace(dataset, frames=np.concatenate(frames), positions=dataset.positions[chosen], timestamps=None)


def part_of(dataset: PtychoDataset, frames: int) -> Numbers:
    """Return the numbers of `frames` frames that lie close together, in ascending order.

    Of a few places, the one whose frames differ most from each other beyond what their counts explain: where there is
    nothing but vacuum, nothing can be told.
    """
    count = len(dataset)
    if count <= frames:
        return np.arange(count)
    order, tree = hilbert_order(dataset.positions), cKDTree(dataset.positions)
    middles = order[np.linspace(0, count - 1, LOOKS + 2).astype(int)[1:-1]]
    places = [np.sort(np.asarray(tree.query(dataset.positions[m], k=frames)[1], np.int64)) for m in middles]
    return max(places, key=lambda place: _contrast(dataset, place))


def _contrast(dataset: PtychoDataset, place: Numbers) -> float:
    few = gathered(dataset, place[np.linspace(0, len(place) - 1, SAMPLE).astype(int)])
    frames = np.asarray(few.frames[:], np.float64)
    frames = frames if few.mask is None else frames[:, ~few.mask]
    frames = np.where(np.isfinite(frames) & (frames >= 0), frames, 0)
    mean = float(frames.mean())
    return float(frames.var(axis=0).mean()) / mean if mean > 0 else 0.0


def small_problem(dataset: PtychoDataset, held: float = 0.9) -> Problem:
    """Return the problem with one probe mode; in the far field the middle of large frames, if it holds that much light.

    `held` is the share of the counts that must be in the middle before the rest is cut off.
    """
    problem = prepare(dataset, 1)
    if dataset.probe is not None and problem.propagator.reciprocal:
        problem = _centred(problem)
    while can_be_coarser(problem) and problem.amplitudes.size // 2 >= SMALL:
        smaller = coarser(problem)
        if smaller.mean_counts < held * problem.mean_counts:
            break
        problem = smaller
    return problem


def _centred(problem: Problem) -> Problem:
    """Return the problem with the probe's pattern moved over the mean pattern: a ramp, which the data leave free."""
    found = np.maximum(problem.amplitudes.of(np.arange(len(problem))), 0).mean(axis=0)
    wave = scipy.fft.fft2(scipy.fft.ifftshift(problem.start.probe, axes=(-2, -1)))
    expected = np.sqrt((np.abs(wave[0]) ** 2).sum(axis=0))
    match = scipy.fft.ifft2(scipy.fft.fft2(found) * scipy.fft.fft2(expected).conj()).real
    shift = np.unravel_index(int(match.argmax()), match.shape)
    there = scipy.fft.ifft2(np.roll(wave, shift, axis=(-2, -1)))
    probe = np.asarray(scipy.fft.fftshift(there, axes=(-2, -1)), np.complex64)
    return replace(problem, start=replace(problem.start, probe=probe))


def moved(problem: Problem, corners: npt.NDArray[np.float64]) -> Problem:
    """Return the problem with other corners (N, 2), object pixels but for a constant, and an empty object."""
    corners = corners - corners.min(axis=0) + MARGIN
    size = problem.amplitudes.size
    height, width = (int(v) for v in np.ceil(corners.max(axis=0)) + size + MARGIN)
    grid = ObjectGrid((height, width), corners, (0.0, 0.0), problem.grid.pixel_size)
    amplitudes = MemoryAmplitudes(problem.amplitudes.of(np.arange(len(problem))), corners)
    start = replace(problem.start, object=np.ones((1, height, width), np.complex64), corners=corners)
    return replace(problem, amplitudes=amplitudes, grid=grid, start=start)


def step_px(problem: Problem) -> float:
    """Return the median distance of a corner to its nearest neighbour, object pixels."""
    return float(np.median(np.asarray(cKDTree(problem.start.corners).query(problem.start.corners, k=2)[0])[:, 1]))


def probe_widths(problem: Problem, known: bool) -> list[float | None]:
    """Return what probes are worth a try: None for the problem's own, else widths in steps, negative beyond the focus.

    Several only where no probe is known in the far field: the defocus is what is missing above all.
    """
    if known or not problem.propagator.reciprocal:
        return [None]
    step, size = step_px(problem), problem.amplitudes.size
    return [0.0, *(s * d for d in DIAMETERS_IN_STEPS for s in (1, -1) if 2 < d * step < 0.9 * size)]


def begun(problem: Problem, width: float | None) -> Problem:
    """Return the problem begun at a probe of :func:`probe_widths`."""
    if width is None:
        return problem
    pupil = np.asarray(scipy.fft.fft2(scipy.fft.ifftshift(problem.start.probe[0, 0])), np.complex64)
    probe = curved(pupil, width * step_px(problem))[None, None]
    return replace(problem, start=replace(problem.start, probe=probe))


def try_out(problems: Sequence[Problem], epochs: int, threads: int | None = None) -> list[Trial]:
    """Reconstruct each problem for some epochs, several at a time; the results do not depend on `threads`."""
    with ThreadPoolExecutor(threads or settings().threads) as pool:
        return list(pool.map(lambda problem: _trial(problem, epochs), problems))


def best_of(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the lowest R-factor."""
    return min(trials, key=lambda trial: trial.r_factor)


def _trial(problem: Problem, epochs: int) -> Trial:
    kernels, rng = kernels_for(problem, "cpu", threads=1), np.random.default_rng(0)
    model, groups = problem.start, problem.groups(problem.start, 1)
    for step in np.geomspace(1.0, 0.1, epochs):
        first = model is problem.start  # the object learns before the probe does
        model = kernels.sweep(model, groups, Steps(step, 0.0 if first else step, 0.5, 1.0), rng).model
        if not model.is_finite():
            return Trial(float("inf"), problem, problem.start)
    return Trial(kernels.r_factor(model, groups), problem, model)
