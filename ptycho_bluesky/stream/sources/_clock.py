"""By how much two clocks differ: that of the stage and that of the detector."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import SourceError

__all__ = ["ClockOffset"]

KEPT = 4096
"""Latest delays of each stream that the uncertainty is taken from."""


class _Delays:
    """What lies between the time stamps of one stream and their arrival here."""

    def __init__(self) -> None:
        self.least = math.inf
        self.count = 0
        self._latest: deque[float] = deque(maxlen=KEPT)

    def add(self, delay: float) -> None:
        if math.isfinite(delay):
            self.least = min(self.least, delay)
            self.count += 1
            self._latest.append(delay)

    def spread_s(self) -> float:
        return float(np.median(self._latest)) - min(self._latest) if self._latest else math.nan


class ClockOffset:
    """Stage clock minus detector clock, constant; given, or estimated from when messages arrive here.

    Each message arrives later than its stamp says, by the offset of its clock and a delay above 0. The shortest delay
    of either stream is nearly that of an idle network (the filter of NTP, RFC 5905 section 10), so the difference of
    the two shortest is the offset, up to the difference of two idle networks: a millisecond or so. Only this constant
    comes from arrival; no frame is joined by it.

    Parameters
    ----------
    seconds:
        The offset where it is known (0 where both clocks are synchronised); None to estimate it.
    settle:
        Messages of either stream before an estimate is used; from then on it stays as it is.

    Raises
    ------
    SourceError
        When `seconds` is not finite, or `settle` below 1.
    """

    def __init__(self, seconds: float | None = 0.0, *, settle: int = 16) -> None:
        if (seconds is not None and not math.isfinite(seconds)) or settle < 1:
            raise SourceError(f"clock offset {seconds} s after {settle} messages; give a finite number or None, and 1")
        self.estimated = seconds is None
        """Whether the offset comes from arrivals."""
        self.seconds = seconds
        """The offset in use; None while it is not known yet."""
        self._settle = settle
        self._frames, self._samples = _Delays(), _Delays()

    def frame(self, time: float, arrived: float) -> None:
        """Take note of a frame stamped `time` by the detector and `arrived` by this machine's clock."""
        self._frames.add(arrived - time)
        self._decide()

    def samples(self, time: float, arrived: float) -> None:
        """Take note of a message, its newest sample stamped `time` by the stage, `arrived` by this machine's clock."""
        self._samples.add(arrived - time)
        self._decide()

    def shift(self, seconds: float) -> None:
        """Correct an estimate by what the samples themselves show."""
        if self.seconds is not None and self.estimated:
            self.seconds += seconds

    def _decide(self) -> None:
        if self.seconds is None and min(self._frames.count, self._samples.count) >= self._settle:
            self.seconds = self._frames.least - self._samples.least

    def report(self) -> dict[str, Any]:
        """Return the offset in use and whether it is an estimate; from arrivals its uncertainty, and what they say now.

        ``seen_s`` far from ``offset_s`` means that a clock drifts, or that a given offset is wrong.
        """
        known = bool(self._frames.count and self._samples.count)
        return {
            "offset_s": self.seconds,
            "estimated": self.estimated,
            "seen_s": self._frames.least - self._samples.least if known else None,
            "uncertainty_s": self._frames.spread_s() + self._samples.spread_s() if known else None,
        }


def nearest(times: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return for each wanted time the place of the nearest of the ascending `times`."""
    right = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    return np.where(wanted - times[left] <= times[right] - wanted, left, right)
