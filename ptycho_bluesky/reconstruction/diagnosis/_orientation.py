"""Which way the positions count, and how the detector is mounted: found from some frames by short reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import Orientation, PtychoDataset
from ptycho_bluesky.reconstruction._result import coverage, settled
from ptycho_bluesky.reconstruction.diagnosis._trial import (
    Trial,
    begun,
    best_of,
    gathered,
    moved,
    part_of,
    probe_widths,
    small_problem,
    try_out,
)

__all__ = ["OrientationReport", "PositionAxes", "detect_orientation"]

FEWEST = 12
"""Frames below which nothing can be told."""

CLEAR = 0.02
"""By how much of itself the R-factor must rise from the best to the next one before the best is believed."""

MATTER = 0.3
"""Correlation of the phase with the logarithm of the amplitude from which on its sign is believed."""

EPOCHS = 10


@dataclass(frozen=True)
class PositionAxes:
    """One of the eight ways in which positions can be meant: swap their columns first, then multiply by the signs.

    Turning the frames instead gives the same fit and the mirror image, so that eight ways to mount a detector and four
    pairs of signs are eight cases and no more.
    """

    swap_axes: bool = False
    axis_signs: tuple[int, int] = (1, 1)

    def apply(self, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return positions (N, 2) as they are meant."""
        swapped = positions[:, ::-1] if self.swap_axes else positions
        return np.ascontiguousarray(swapped * np.asarray(self.axis_signs, np.float64))

    @property
    def reversed(self) -> PositionAxes:
        """Both signs the other way: in the far field the same fit, with the conjugate of object and probe."""
        return replace(self, axis_signs=(-self.axis_signs[0], -self.axis_signs[1]))

    @property
    def orientation(self) -> Orientation:
        """What to do to the frames instead, the positions left as they are."""
        rows, columns = self.axis_signs[::-1] if self.swap_axes else self.axis_signs
        return Orientation(transpose=self.swap_axes, flip_rows=rows < 0, flip_columns=columns < 0)

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of ``load_dataset`` that bring this about, beyond what was given; empty where nothing is to be done."""
        signs = {} if self.axis_signs == (1, 1) else {"axis_signs": self.axis_signs}
        return ({"swap_axes": True} if self.swap_axes else {}) | signs

    def __str__(self) -> str:
        parts = ["the two axes of the positions are swapped"] if self.swap_axes else []
        named = {(1, -1): "the columns", (-1, 1): "the rows", (-1, -1): "rows and columns"}
        if self.axis_signs in named:
            parts.append(f"{named[self.axis_signs]} of the positions count the other way")
        return " and ".join(parts) or "positions and frames agree as they are"


SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
CASES = [PositionAxes(swap, signs) for swap in (False, True) for signs in SIGNS]


@dataclass(frozen=True)
class OrientationReport:
    """Which way the positions count, as far as the frames tell."""

    candidates: tuple[tuple[PositionAxes, float], ...]
    """All eight cases with their R-factors after a few epochs, the best first."""

    best: PositionAxes
    """Explains the frames best; of two that do equally well, the one nearer to what was given."""

    decided: bool
    """Whether it explains them clearly better than the other cases."""

    sign_decided: bool
    """Whether it is told from its reverse as well (far field: that fits as well, with the phase upside down)."""

    reasons: tuple[str, ...]
    """Why, in words."""

    frames: int
    """Frames tried."""

    @property
    def tried(self) -> bool:
        """Whether there were frames enough to try."""
        return self.frames >= FEWEST

    @property
    def as_given(self) -> bool:
        """Whether nothing is to be done."""
        return self.best == PositionAxes()

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of ``load_dataset`` that bring the best case about, beyond what was given."""
        return self.best.arguments

    def apply(self, dataset: PtychoDataset) -> PtychoDataset:
        """Return the dataset with its positions as they are meant.

        Raises
        ------
        DatasetError
            When nothing was decided.
        """
        if not self.decided:
            raise DatasetError(
                f"dataset {dataset.name or '(unnamed)'}: its orientation is not decided ({'; '.join(self.reasons)}); "
                "give axis_signs, swap_axes or orientation yourself"
            )
        return replace(dataset, positions=self.best.apply(dataset.positions))

    def __str__(self) -> str:
        why = "; ".join(self.reasons)
        if not self.decided:
            return f"undecided: {why}"
        text = f"{self.best} ({why})"
        if self.as_given:
            return text
        wanted = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        turned = ", ".join(f"{key!r}: True" for key, value in self.best.orientation if value)
        return f"{text}: give {wanted}, or for the mirror image orientation={{{turned}}}, on top of what was given"


def detect_orientation(dataset: PtychoDataset, frames: int = 100, *, threads: int | None = None) -> OrientationReport:
    """Find which way the positions count, from a few epochs on some neighbouring frames.

    Turning frames and positions together gives the mirror image and no other fit, so that only their relation can be
    told: eight cases. In the far field, patterns turned by 180 degrees are those of the conjugate object under the
    conjugate probe (``|F(conj(f))(q)| = |F(f)(-q)|``), which fits as well; a given probe tells the two apart, and so
    does matter, which absorbs where it advances the phase: with the house's sign, phase and logarithm of the amplitude
    rise together.

    Parameters
    ----------
    dataset:
        Far or near field, with or without a probe.
    frames:
        Frames to try, close together on the sample.
    threads:
        Cases tried at a time; None for the setting ``threads``. The result does not depend on it.

    Raises
    ------
    DatasetError, ReconstructionError
        When the dataset has faults, or none of its frames can be used.
    """
    part = gathered(dataset.validate(), part_of(dataset, frames))
    if len(part) < FEWEST:
        reason = f"{len(part)} frames are too few; {FEWEST} or more are needed"
        unknown = tuple((case, float("nan")) for case in CASES)
        return OrientationReport(unknown, PositionAxes(), False, False, (reason,), len(part))
    found = _ranked(part, threads)
    if not found.decided and part.probe is not None:  # perhaps the probe is what is wrong
        without = _ranked(replace(part, probe=None), threads)
        found = without if without.decided else found
    return found


def _ranked(part: PtychoDataset, threads: int | None) -> OrientationReport:
    problem, known, far = small_problem(part), part.probe is not None, part.modality == "far-field"
    twins = far and not known  # a case and its reverse begin alike and end alike
    tried = [case for case in CASES if not twins or case.axis_signs[0] > 0]
    ways = [moved(problem, case.apply(problem.start.corners)) for case in tried]
    widths = probe_widths(problem, known)
    trials = try_out([begun(way, width) for way in ways for width in widths], EPOCHS, threads)
    results: dict[PositionAxes, Trial] = {}
    for number, case in enumerate(tried):
        results[case] = best_of(trials[number * len(widths) : (number + 1) * len(widths)])
        if twins:
            results[case.reversed] = results[case]
    ranking = sorted(CASES, key=lambda case: (results[case].r_factor, CASES.index(case)))
    best = ranking[0]
    same = {best, best.reversed} if far else {best}
    others = [results[case].r_factor for case in ranking if case not in same]
    decided, reason = _verdict(results[best].r_factor, others)
    reasons, sign_decided = [reason], not far
    if far and decided:
        best, sign_decided, reason = _sign(best, results, known)
        reasons.append(reason)
    return OrientationReport(
        tuple((case, results[case].r_factor) for case in ranking),
        best if decided else PositionAxes(),
        decided,
        sign_decided,
        tuple(reasons),
        len(part),
    )


def _verdict(best: float, others: Sequence[float]) -> tuple[bool, str]:
    finite = [value for value in others if np.isfinite(value)]
    if not np.isfinite(best) or not finite:
        return False, "every trial diverged"
    gap = min(finite) - best
    if gap > CLEAR * min(finite) and gap > max(finite) - min(finite):
        return True, f"R-factor {best:.3f}, any other way at least {min(finite):.3f}"
    return False, f"R-factor {best:.3f} at the best and {min(finite):.3f} the next way, which is no clear difference"


def _sign(best: PositionAxes, results: dict[PositionAxes, Trial], known: bool) -> tuple[PositionAxes, bool, str]:
    """Tell a case from its reverse: return the right one, whether that is certain, and why."""
    here, there = results[best].r_factor, results[best.reversed].r_factor
    by_probe = known and there - here > CLEAR * there
    matter = absorption(results[best])
    by_matter = abs(matter) > MATTER
    if by_probe and not (by_matter and matter < 0):
        return best, True, f"the given probe decides against the reverse, {there:.3f}"
    nearer = best if best.axis_signs[0] > 0 else best.reversed
    if by_probe:
        return nearer, False, (
            "the given probe speaks for one sign of both axes, but absorption and phase of the sample for the other: "
            "the probe may be that of the other side of the focus"
        )  # fmt: skip
    if by_matter:
        right = best if matter > 0 else best.reversed
        return right, True, f"absorption goes with phase advance, correlation {abs(matter):.2f}"
    return nearer, False, (
        "whether both axes count the other way is not to be told, for absorption and phase do not go together "
        f"(correlation {matter:.2f}): if dense parts come out with a positive phase, reverse both axis_signs"
    )  # fmt: skip


def absorption(trial: Trial) -> float:
    """Return the correlation of phase and logarithm of the amplitude: positive for matter, negative upside down.

    Slow changes, which a few epochs do not settle, are taken away first.
    """
    model = settled(trial.problem, trial.model)
    weight, obj = coverage(trial.problem, model), model.object[0]
    inside = weight > 0.1
    phase = np.angle(obj * np.exp(-1j * np.angle(obj[inside].mean())))
    images = [phase, np.log(np.maximum(np.abs(obj), 1e-3))]
    smooth = scipy.ndimage.gaussian_filter(weight, 8) + 1e-6
    a, b = (image - scipy.ndimage.gaussian_filter(image * weight, 8) / smooth for image in images)
    if not (a[inside].std() > 0 and b[inside].std() > 0):
        return 0.0
    return float(np.corrcoef(a[inside], b[inside])[0, 1])
