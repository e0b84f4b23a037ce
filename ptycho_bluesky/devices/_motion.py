"""How an axis moves, and how it errs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["AxisErrors", "Motion"]


@dataclass(frozen=True)
class AxisErrors:
    """How far an axis is from its setpoint, standard deviations in the axis's unit.

    The encoder sees `repeatability` and `backlash`, and adds `encoder_noise`; it does not see `hidden` and `drift`,
    by which the sample is elsewhere than the encoder says: what position correction has to find.
    """

    repeatability: float = 0.0
    """Of the place where a move ends, new for each move."""

    backlash: float = 0.0
    """Lost when the direction turns; the axis stops short by half of it."""

    encoder_noise: float = 0.0
    """Of each reading of the encoder."""

    hidden: float = 0.0
    """Of the sample against the encoder, new for each move (tilt, vibration)."""

    drift: float = 0.0
    """Of the sample against the encoder after 1,000 moves: a random walk (temperature)."""

    def along(
        self, planned: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return what the encoder captures and where the sample really is, both (N,), in a flight over `planned` (N,).

        As in single moves, but for backlash, which steady motion does not show; random numbers come from `rng`.
        """
        missed, hidden, noise, step = rng.normal(size=(4, len(planned)))
        there = planned + self.repeatability * missed
        walk = np.cumsum(step) * self.drift / math.sqrt(1000)
        return there + self.encoder_noise * noise, there + self.hidden * hidden + walk


@dataclass(frozen=True)
class Motion:
    """A ramp at constant velocity; times of :func:`time.monotonic`."""

    start: float
    end: float
    began: float
    arrives: float
    settled: float

    def at(self, now: float) -> float:
        """Return the position at the time `now`."""
        if now >= self.arrives:
            return self.end
        return self.start + (self.end - self.start) * (now - self.began) / (self.arrives - self.began)
