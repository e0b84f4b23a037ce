"""Between which R-factors a fit must lie: what the noise alone gives, and what no object at all gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction.diagnosis._trial import gathered

__all__ = ["FitLimits", "fit_limits"]

SAMPLE = 100
"""Frames looked at, spread evenly over the scan."""


@dataclass(frozen=True)
class FitLimits:
    """R-factors that a dataset allows."""

    noise: float
    """Of the true object and probe, by the shot noise of the counts; 0 where frames hold no counts but fractions."""

    nothing: float
    """Of one and the same pattern for all frames, the root of their mean: nothing of the sample is explained."""

    def unexplained(self, r_factor: float) -> float:
        """Return the share of what differs from frame to frame that a fit leaves unexplained; 0 where nothing does."""
        room = self.nothing - self.noise
        return (r_factor - self.noise) / room if room > 0.1 * self.nothing else 0.0


def fit_limits(dataset: PtychoDataset) -> FitLimits:
    """Return the limits of the R-factor, from some frames.

    The noise is found by drawing counts once more from Poisson distributions whose means are the counts measured.
    """
    few = gathered(dataset, np.unique(np.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).astype(np.int64)))
    counts = np.asarray(few.frames[:], np.float64)
    counts = counts.reshape(len(counts), -1) if few.mask is None else counts[:, ~few.mask]
    counts = counts[(np.isfinite(counts) & (counts >= 0)).all(axis=1)]
    roots = np.sqrt(counts)
    total = float(roots.sum()) or 1.0
    nothing = float(np.abs(np.sqrt(counts.mean(axis=0)) - roots).sum() / total) if len(counts) else 0.0
    whole = bool((counts == np.rint(counts)).all())
    drawn = np.random.default_rng(0).poisson(np.minimum(counts, 1e12)) if whole else counts
    return FitLimits(float(np.abs(np.sqrt(drawn) - roots).sum() / total), nothing)
