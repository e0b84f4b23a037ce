"""What became of each frame of a run, and how fast."""

from __future__ import annotations

import collections
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Counts", "Pace", "RawFrame"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawFrame:
    """A frame on its way to the gate."""

    index: int
    y: float
    x: float
    time: float
    pixels: npt.NDArray[Any]


@dataclass
class Counts:
    """What became of each frame; survives the edge process."""

    inferred: int = 0
    lost: int = 0
    """Never arrived, or given up because they had killed the edge process twice."""
    refused: dict[str, int] = field(default_factory=dict)
    first_refused: dict[str, int] = field(default_factory=dict)
    range_done: int = 0
    """Frames done of the range that is being read."""
    began: float = 0.0
    ended: float = 0.0

    def refuse(self, reason: str, index: int, count: int = 1) -> None:
        """Count refused frames under their reason."""
        if reason not in self.refused:
            logger.warning("frame %d refused: %s (further ones of this kind are only counted)", index, reason)
            self.first_refused[reason] = index
        self.refused[reason] = self.refused.get(reason, 0) + count

    def figures(self, dropped: int) -> dict[str, Any]:
        """Return the counts under the names of :class:`LiveStatus`; `dropped`: frames that the ring could not take."""
        refused, lost = sum(self.refused.values()), dropped + self.lost
        return {
            "frames": self.inferred + refused + lost,
            "frames_inferred": self.inferred,
            "frames_refused": refused,
            "frames_dropped": lost,
            "refused": self.refused,
            "first_refused": self.first_refused,
        }


class Pace:
    """Rates and latencies of the last frames."""

    def __init__(self) -> None:
        self._latencies: collections.deque[float] = collections.deque(maxlen=1000)
        self._recent: collections.deque[tuple[float, int]] = collections.deque(maxlen=400)

    def done(self, times: list[float]) -> float:
        """Take note that frames handed over at `times` are in the image; return the present time."""
        now = time.time()
        self._latencies.extend(now - t for t in times)
        self._recent.append((now, len(times)))
        return now

    def latencies_ms(self) -> tuple[float | None, float | None]:
        """Return median and 95th percentile of the last 1,000 frames."""
        if not self._latencies:
            return None, None
        p50, p95 = np.percentile(self._latencies, [50, 95])
        return float(p50) * 1e3, float(p95) * 1e3

    def rate(self) -> float:
        """Return the frames per second of the last two seconds."""
        now = time.time()
        recent = [(when, count) for when, count in self._recent if now - when < 2.0]
        if len(recent) < 2:
            return 0.0
        return sum(count for _, count in recent[1:]) / max(recent[-1][0] - recent[0][0], 1e-3)
