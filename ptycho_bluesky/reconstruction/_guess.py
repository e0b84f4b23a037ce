"""A start for a probe that nobody knows: the mean pattern, with the curvature that explains some frames best."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.spatial import cKDTree

from ptycho_bluesky.experiment import PtychoDataset, hilbert_order
from ptycho_bluesky.reconstruction._model import ComplexArray
from ptycho_bluesky.reconstruction._problem import Problem, prepare

__all__ = ["curved", "guess_probe"]

logger = logging.getLogger(__name__)

FRAMES = 128
"""Neighbouring frames on which each candidate is tried."""

DIAMETERS_IN_STEPS = (2.0, 3.0, 4.2, 6.0, 8.5)
"""Diameters to try, in distances between neighbouring positions: overlaps from 50 to 88 per cent."""


def curved(pupil: ComplexArray, diameter_px: float) -> ComplexArray:
    """Return (H, W), the probe of a pupil (H, W; zero frequency at the corner) out of focus.

    A quadratic phase ``c k**2`` sends the frequency k to pixel ``c k / pi``; c is such that the disc which holds 90 %
    of the light becomes `diameter_px` wide. A negative diameter is the other side of the focus.
    """
    size = pupil.shape[-1]
    f = np.fft.fftfreq(size)
    squared = f[:, None] ** 2 + f[None] ** 2
    light, order = np.abs(pupil).ravel() ** 2, np.argsort(squared, axis=None)
    held = np.cumsum(light[order], dtype=np.float64)
    edge = float(np.sqrt(squared.ravel()[order][np.searchsorted(held, 0.9 * held[-1])])) or 1 / size
    phase = np.pi * diameter_px / (2 * edge) * squared
    return np.asarray(scipy.fft.fftshift(scipy.fft.ifft2(pupil * np.exp(1j * phase))), dtype=np.complex64)


def guess_probe(dataset: PtychoDataset, r_factor: Callable[[Problem], float]) -> npt.NDArray[np.complex64]:
    """Return (1, H, W), a probe for a far-field dataset without one.

    The modulus in the pupil is the root of the mean pattern; what is missing is above all the defocus. Some are tried,
    on both sides of the focus and then finer around the best one.

    Parameters
    ----------
    dataset:
        Far field; its own probe is ignored.
    r_factor:
        Reconstructs a problem for some epochs and returns the R-factor.
    """
    chosen = np.sort(hilbert_order(dataset.positions)[:FRAMES])
    problem = prepare(replace(dataset.subset(chosen), probe=None), 1)
    pupil = np.asarray(scipy.fft.fft2(scipy.fft.ifftshift(problem.start.probe[0, 0])), dtype=np.complex64)
    size = pupil.shape[-1]
    nearest = np.asarray(cKDTree(problem.start.corners).query(problem.start.corners, k=[2])[0])
    step = float(np.median(nearest))
    if not (np.isfinite(step) and step > 0):  # a single frame, or all at one place
        step = size / 16
    tried: dict[float, float] = {}

    def try_out(diameters: list[float]) -> float:
        for diameter in diameters:
            start = replace(problem.start, probe=curved(pupil, diameter)[None, None])
            tried[diameter] = r_factor(replace(problem, start=start))
        return min(tried, key=tried.__getitem__)

    sides = [0.0] + [s * d * step for d in DIAMETERS_IN_STEPS for s in (1, -1) if 2 < d * step < 0.9 * size]
    best = try_out(sides)
    best = try_out([best * f for f in (0.83, 1.2)] if best else [step, -step])
    logger.info(
        "dataset %s: no probe given; guessed from the mean pattern, %.3g pixels wide (R-factor %.3f after a try)",
        dataset.name or "(unnamed)", best, tried[best],
    )  # fmt: skip
    return curved(pupil, best)[None]
