"""Positions that are too long or too short for the pixel, or that belong to the frame before or after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction.diagnosis._finding import DatasetFinding
from ptycho_bluesky.reconstruction.diagnosis._orientation import PositionAxes
from ptycho_bluesky.reconstruction.diagnosis._trial import (
    begun,
    gathered,
    moved,
    part_of,
    probe_widths,
    small_problem,
    try_out,
)

__all__ = ["PositionScale", "fit_findings", "position_scale"]

FRAMES, EPOCHS = 200, 12
"""More frames than for the orientation: what is looked for is less clear."""

FINE = 0.995
"""Share of the counts that the scale is judged by: it is the light scattered far out that tells it."""

SCALES = (0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25)

NOTICED, CERTAIN = 0.006, 0.04
"""By how much of itself the R-factor must fall for a scale to be told, and for it to be beyond doubt."""

SMALLEST = 0.05
"""Deviation of the scale from 1 that is told."""

LAG = 0.05
"""By how much of itself the R-factor must fall for a lag to be told."""

MEANT = 0.92
"""R-factor, in units of that with the positions shuffled, below which positions belong to the frames."""


@dataclass(frozen=True)
class PositionScale:
    """By what the positions are to be multiplied to fit the frames best."""

    scale: float
    """Between the extremes of those tried."""

    gain: float
    """By how much of itself the R-factor falls from scale 1 to the best one tried."""


def fit_findings(dataset: PtychoDataset, axes: PositionAxes, threads: int | None = None) -> list[DatasetFinding]:
    """Return what short reconstructions tell of scale and order of the positions, taken as `axes` says.

    Parameters
    ----------
    dataset:
        Valid, with positions in a plausible unit.
    axes:
        Which way the positions count.
    threads:
        Trials at a time; None for the setting ``threads``.
    """
    chosen = part_of(dataset, FRAMES)
    trials = _Scales(gathered(dataset, chosen), axes, threads)
    late = {lag: dataset.positions[np.clip(chosen + lag, 0, len(dataset) - 1)] for lag in (1, -1)}
    lags = {lag: trials.best_at(positions)[1] for lag, positions in late.items()}
    lag = min(lags, key=lags.__getitem__)
    shuffled = trials.best_at(np.random.default_rng(0).permutation(dataset.positions[chosen]))[1]
    if lags[lag] < min((1 - LAG) * trials.as_given, MEANT * shuffled):
        which = "after" if lag > 0 else "before"
        text = (
            f"each frame fits the position {which} its own better (R-factor {lags[lag]:.3f}, as given "
            f"{trials.as_given:.3f}): frames and positions are out of step by one, as when a first or last one is lost"
        )
        return [DatasetFinding("order", "error", text)]
    if trials.as_given > MEANT * shuffled:  # these positions mean little to these frames, on any scale
        return []
    found = trials.scale()
    if found.gain < NOTICED or abs(found.scale - 1) < SMALLEST:
        return []
    return [DatasetFinding("scale", "error" if found.gain > CERTAIN else "warning", _told(dataset, found.scale))]


def position_scale(
    dataset: PtychoDataset, axes: PositionAxes | None = None, threads: int | None = None
) -> PositionScale:
    """Return the factor between 0.8 and 1.25 by which positions fit the frames best.

    A probe far out of focus fits other scales nearly as well, by another defocus: the shadow on the detector stays the
    same. The gain says how much is in it.

    Parameters
    ----------
    dataset:
        Up to 200 of its frames are reconstructed.
    axes:
        Which way the positions count; None: as given.
    threads:
        Trials at a time; None for the setting ``threads``.
    """
    part = gathered(dataset.validate(), part_of(dataset, FRAMES))
    return _Scales(part, axes or PositionAxes(), threads).scale()


class _Scales:
    """Short reconstructions of one part of a scan with other positions."""

    def __init__(self, part: PtychoDataset, axes: PositionAxes, threads: int | None) -> None:
        self._problem, self._axes, self._threads = small_problem(part), axes, threads
        self._part = part
        self._widths = probe_widths(self._problem, part.probe is not None)
        self._width, self.as_given = self.best_at(part.positions)

    def _corners(self, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return self._axes.apply(positions[self._problem.used]) / self._problem.grid.pixel_size

    def best_at(self, positions: npt.NDArray[np.float64]) -> tuple[float | None, float]:
        """Return the probe's width that suits other positions (N, 2) best, and its R-factor."""
        here = moved(self._problem, self._corners(positions))
        trials = try_out([begun(here, width) for width in self._widths], EPOCHS, self._threads)
        errors = [trial.r_factor for trial in trials]
        best = int(np.argmin(errors))
        return self._widths[best], errors[best]

    def scale(self) -> PositionScale:
        """Return the best scale: the lowest of a parabola through the three best neighbours."""
        problem = small_problem(self._part, FINE)
        corners = self._axes.apply(problem.start.corners)
        ways = [begun(moved(problem, corners * scale), self._width) for scale in SCALES]
        errors = [trial.r_factor for trial in try_out(ways, EPOCHS, self._threads)]
        best = int(np.argmin(errors))
        refined = SCALES[best]
        if 0 < best < len(SCALES) - 1:
            near = slice(best - 1, best + 2)
            a, b, _ = np.polyfit(np.log(SCALES[near]), errors[near], 2)
            refined = float(np.exp(-b / (2 * a))) if a > 0 else refined
        return PositionScale(refined, 1 - errors[best] / errors[SCALES.index(1.0)])


def _told(dataset: PtychoDataset, scale: float) -> str:
    text = (
        f"the frames fit best with positions multiplied by {scale:.2f}: the positions or the object's pixel are off by "
        f"{abs(scale - 1):.0%}"
    )
    geometry = dataset.geometry
    if geometry is None:
        return f"{text}; check the unit of the positions and the calibration of the stage"
    if dataset.modality == "near-field":
        return f"{text}; check focus_to_sample_m, distance_m, detector_pixel_m and the calibration of the stage"
    fitting = {
        "energy": (geometry.energy_kev, scale, "keV"),
        "distance": (geometry.distance_m, 1 / scale, "m"),
        "detector's pixel": (geometry.detector_pixel_m, scale, "m"),
    }
    parts = [f"the {name} ({v:.4g} {unit} given, {v * f:.4g} would fit)" for name, (v, f, unit) in fitting.items()]
    return f"{text}; wrong may be {', '.join(parts)} or the calibration of the stage"
