"""The numbers of frames as they arrive: what is missing, late, doubled, or a new beginning."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["IndexCheck", "SourceCounts"]


@dataclass
class SourceCounts:
    """What became of the frames of a source."""

    received: int = 0
    """Sound frames, each counted once."""
    dropped: int = 0
    """Frames that never arrived: gaps in the numbers."""
    reordered: int = 0
    """Frames that came after a later one; they are among the received."""
    repeated: int = 0
    """Frames that came a second time, and were left out."""
    discarded: int = 0
    """Received frames that the back-pressure policy gave up, because they were not read in time."""
    restarts: int = 0
    """How often the source began its numbers again."""
    damaged: dict[str, int] = field(default_factory=dict)
    """Frames that arrived unusable, by reason."""

    def damage(self, reason: str) -> None:
        """Count a frame that cannot be used."""
        self.damaged[reason] = self.damaged.get(reason, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """Return all counts as JSON values."""
        return asdict(self)


class IndexCheck:
    """Follows the numbers of one source's frames and counts what is wrong with them.

    A number that was passed over counts as dropped until it comes after all; then it counts as reordered. A number that
    was seen already is a repetition. It begins a new series instead if the connection was lost in between; if its time
    stamp is newer than all before and it is the first number again (or follows a repetition like that: the first was
    lost, and so was one frame here); or, without time stamps, if it lies further back than `window`.

    Parameters
    ----------
    counts:
        Where to count.
    window:
        How many numbers back a late frame is still known to be missing.
    """

    def __init__(self, counts: SourceCounts, window: int = 1024) -> None:
        self._counts, self._window = counts, window
        self.series = 0
        """Number of the present series, from 0."""
        self._first: int | None = None
        self._next = 0
        self._newest = math.nan
        self._missing: dict[int, None] = {}
        self._lost_touch = False
        self._suspect = -1  # number of the last repetition with a newer time stamp

    def begin(self, first: int | None = None) -> None:
        """Begin a new series because the source said so; `first` is its first number, None where that is not known."""
        if self._first is not None and not (first == self._first == self._next):  # announced twice is still one
            self.series += 1
            self._counts.restarts += 1
        self._first, self._next, self._newest = first, first or 0, math.nan
        self._missing.clear()
        self._lost_touch, self._suspect = False, -1

    def lost_touch(self) -> None:
        """Take note that the connection was lost: the next number that lies back begins a new series."""
        self._lost_touch = True

    def accept(self, index: int, time: float = math.nan) -> bool:
        """Count frame `index`, stamped `time` by the detector (NaN: not stamped); False where it was there before."""
        if self._first is None:
            self._first = self._next = index
        if index < self._next and self._begins_again(index, time, self._first):
            self.begin(index)
            self._first = index
        self._lost_touch = False
        if index >= self._next:
            self._pass_over(self._next, index)
            self._next = index + 1
            self._newest = time if not self._newest > time else self._newest
        elif index in self._missing:
            del self._missing[index]
            self._counts.dropped -= 1
            self._counts.reordered += 1
        elif index < self._first:  # what was thought to be the first was not
            self._counts.reordered += 1
            self._pass_over(index + 1, self._first)
            self._first = index
        else:
            self._counts.repeated += 1
            self._suspect = index if time > self._newest else -1
            return False
        return True

    def _begins_again(self, index: int, time: float, first: int) -> bool:
        newer = time > self._newest  # False where either is NaN
        if self._lost_touch:
            return newer or index < self._next - 1  # the last frame again is what a monitor shows on reconnection
        if index in self._missing:
            return False
        if math.isnan(time):
            return index + self._window < self._next
        return newer and (index <= first or index == self._suspect + 1)

    def _pass_over(self, start: int, stop: int) -> None:
        self._counts.dropped += stop - start
        for number in range(max(start, stop - self._window), stop):
            self._missing[number] = None
        while len(self._missing) > self._window:
            del self._missing[next(iter(self._missing))]
