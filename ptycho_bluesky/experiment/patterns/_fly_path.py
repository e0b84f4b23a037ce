"""What a flyer is told: where the axes are at each exposure, and in what time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ptycho_bluesky.errors import PlanError, report
from ptycho_bluesky.experiment.patterns._pattern import FloatArray, Lines

__all__ = ["FlyPath"]


@dataclass(frozen=True)
class FlyPath:
    """Exposures in flight: lines that are passed in steady motion, one frame each period.

    Between two lines the axes turn round and no frame is taken; run-up and turn-round are the flyer's business.

    Attributes
    ----------
    positions:
        (N, 2) float64, (y, x) of the axes in the middle of each exposure, in their own unit and sense of direction.
    exposure_s:
        Of each frame, seconds.
    period_s:
        From the begin of one frame of a line to that of the next, seconds; not below `exposure_s`.
    lines:
        Ranges (start, stop) of frames, in order, all together the whole path.

    Raises
    ------
    PlanError
        When one of these is not as told here.
    """

    positions: FloatArray = field(repr=False)
    exposure_s: float
    period_s: float
    lines: Lines = field(repr=False)

    def __post_init__(self) -> None:
        positions = np.array(self.positions, np.float64)
        faults = []
        if positions.ndim != 2 or positions.shape[-1] != 2 or not len(positions) or not np.isfinite(positions).all():
            faults.append(f"positions have shape {positions.shape}; allowed is (N, 2), N of 1 or more, all finite")
        if not 0 < self.exposure_s <= self.period_s < float("inf"):
            faults.append(
                f"exposure_s is {self.exposure_s}, period_s {self.period_s}; the exposure must be above 0 and not "
                "above the period"
            )
        ends = [0, *(stop for _, stop in self.lines)]
        starts = [*(start for start, _ in self.lines), len(positions) if positions.ndim else 0]
        if not self.lines or starts != ends or any(stop <= start for start, stop in self.lines):
            faults.append(f"lines {self.lines[:3]} ... do not follow each other from 0 to {len(positions)}")
        if faults:
            raise PlanError(report("fly path", faults))
        positions.setflags(write=False)
        object.__setattr__(self, "positions", positions)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def seconds(self) -> float:
        """Time of the frames alone, without run-up and turn-round."""
        return len(self) * self.period_s

    @property
    def velocity(self) -> FloatArray:
        """(N, 2) velocity of the axes at each frame, their unit per second; 0 in a line of one frame."""
        before, after = self._halves()
        return (after - before) / self.period_s

    @property
    def begin(self) -> FloatArray:
        """(N, 2) the axes at the begin of each exposure."""
        before, _ = self._halves()
        return self.positions + (before - self.positions) * (self.exposure_s / self.period_s)

    @property
    def end(self) -> FloatArray:
        """(N, 2) the axes at the end of each exposure."""
        _, after = self._halves()
        return self.positions + (after - self.positions) * (self.exposure_s / self.period_s)

    def part(self, start: int, stop: int) -> FlyPath:
        """Return the frames from index `start` up to, without, `stop`; lines are cut with them."""
        cut = ((max(a, start) - start, min(b, stop) - start) for a, b in self.lines)
        return replace(self, positions=self.positions[start:stop], lines=tuple((a, b) for a, b in cut if a < b))

    def flights(self, most_frames: int) -> list[FlyPath]:
        """Return pieces that end with a line, each of at most `most_frames`, or of one line where that has more."""
        cuts = [0]
        for start, stop in self.lines:
            if stop - cuts[-1] > most_frames and start > cuts[-1]:
                cuts.append(start)
        return [self.part(a, b) for a, b in zip(cuts, [*cuts[1:], len(self)], strict=True)]

    def _halves(self) -> tuple[FloatArray, FloatArray]:
        """Return where the axes are half a period before and after the middle of each exposure."""
        before, after = self.positions.copy(), self.positions.copy()
        for start, stop in self.lines:
            line = self.positions[start:stop]
            if len(line) > 1:
                middle = (line[1:] + line[:-1]) / 2
                before[start:stop] = np.concatenate([2 * line[:1] - middle[:1], middle])
                after[start:stop] = np.concatenate([middle, 2 * line[-1:] - middle[-1:]])
        return before, after

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; ``FlyPath(**...)`` of them gives the same path."""
        return {
            "positions": self.positions.tolist(),
            "exposure_s": self.exposure_s,
            "period_s": self.period_s,
            "lines": [list(line) for line in self.lines],
        }
