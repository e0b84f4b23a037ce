"""Frames and positions brought together, by number or by time, never by order of arrival."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream.sources._clock import ClockOffset, nearest
from ptycho_bluesky.stream.sources._frame import SourceFrame

__all__ = ["PositionJoin"]

Joined = tuple[SourceFrame, float, float]
POSITIONS_KEPT = 500_000
SAMPLES_KEPT = 500_000


class PositionJoin:
    """Gives each frame of one run its position.

    Give it positions as they come, and frames as they come; :meth:`add` returns what has become complete, in order of
    the frames' arrival as far as their positions are there. Frames that bring their position along need no other.

    Parameters
    ----------
    by:
        ``index``: position k belongs to the frame with number k, as the run's documents count. ``time``: the stage is
        sampled against its own clock, and a frame's position is interpolated between the samples around it.
    clock:
        Stage clock minus detector clock; None for ``ClockOffset(0.0)``. Give ``ClockOffset(None)`` to estimate it.
    shift_s:
        Seconds to add to a frame's time before it is looked up: half of the exposure where the stamp is its start.
    one_per_frame:
        Samples are taken by the same trigger as frames: a frame takes the nearest sample that is closer than half the
        interval, and an estimated offset is refined by them. An estimate that is wrong by more than half an interval
        joins neighbours; ``clock.report()`` gives its uncertainty.
    max_gap_s:
        Frames between two samples further apart than this are not interpolated but given up.
    first_index:
        Number of the frame that position 0 belongs to: 1 for areaDetector drivers that count from 1.
    waiting_frames:
        Frames kept for a position, at most; then the oldest is given up.

    Raises
    ------
    SourceError
        When one of these is out of its range.
    """

    def __init__(
        self,
        by: Literal["index", "time"] = "index",
        *,
        clock: ClockOffset | None = None,
        shift_s: float = 0.0,
        one_per_frame: bool = False,
        max_gap_s: float = 0.1,
        first_index: int = 0,
        waiting_frames: int = 4096,
    ) -> None:
        if by not in ("index", "time"):
            raise SourceError(f"frames cannot be joined by {by!r}; by 'index' or by 'time'")
        if not (math.isfinite(shift_s) and max_gap_s > 0 and waiting_frames >= 1):
            raise SourceError(
                f"shift_s {shift_s}, max_gap_s {max_gap_s}, waiting_frames {waiting_frames}: the first must be finite, "
                "the second above 0, the third 1 or more"
            )
        self.by = by
        self.clock = clock or ClockOffset(0.0)
        """Stage clock minus detector clock."""
        self.unmatched = 0
        """Frames given up: no position can come for them, or too many were waiting."""
        self._shift_s, self._one_per_frame, self._max_gap_s = shift_s, one_per_frame, max_gap_s
        self._first_index, self._limit = first_index, waiting_frames
        self._series: int | None = None
        self._waiting: deque[SourceFrame] = deque()
        self._positions: dict[int, tuple[float, float]] = {}
        self._times = np.empty(0)
        self._yx = np.empty((0, 2))
        self._fresh: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
        self._refined = False

    @property
    def waiting(self) -> int:
        """Frames whose position has not come yet."""
        return len(self._waiting)

    # positions --------------------------------------------------------------------------------------------------------

    def positions(self, indices: npt.ArrayLike, yx: npt.ArrayLike) -> None:
        """Take the positions `yx` (N, 2) of the frames `indices` (N,), in any order and in any unit.

        Raises
        ------
        SourceError
            When frames are joined by time, or the shapes do not fit.
        """
        if self.by != "index":
            raise SourceError("this join is by time: give position_samples(times, yx)")
        numbers, places = self._checked(indices, yx, "indices")
        for number, (y, x) in zip(numbers.tolist(), places.tolist(), strict=True):
            self._positions[int(number) + self._first_index] = (y, x)
        while len(self._positions) > POSITIONS_KEPT:
            del self._positions[next(iter(self._positions))]

    def position_samples(self, times: npt.ArrayLike, yx: npt.ArrayLike, arrived: float = math.nan) -> None:
        """Take samples of the stage.

        Parameters
        ----------
        times:
            (N,) seconds by the stage's clock, in any order.
        yx:
            (N, 2), in any unit.
        arrived:
            Seconds since 1970 by this machine's clock when the message came; needed to estimate a clock offset.

        Raises
        ------
        SourceError
            When frames are joined by index, or the shapes do not fit.
        """
        if self.by != "time":
            raise SourceError("this join is by index: give positions(indices, yx)")
        stamps, places = self._checked(times, yx, "times")
        if len(stamps):
            self._fresh.append((stamps, places))
            self.clock.samples(float(stamps.max()), arrived)

    @staticmethod
    def _checked(
        keys: npt.ArrayLike, yx: npt.ArrayLike, name: str
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        found, places = np.atleast_1d(np.asarray(keys, np.float64)), np.atleast_2d(np.asarray(yx, np.float64))
        if found.ndim != 1 or places.shape != (len(found), 2):
            raise SourceError(f"{name} of shape {found.shape} and yx of shape {places.shape}; give (N,) and (N, 2)")
        sound = np.isfinite(found) & np.isfinite(places).all(axis=1)
        return found[sound], places[sound]

    # frames -----------------------------------------------------------------------------------------------------------

    def add(self, frames: list[SourceFrame]) -> list[Joined]:
        """Take frames, and return all that have a position now as (frame, y, x); give ``[]`` to ask again later.

        By index, frames of another series than the first frame's are given up: a detector that started again in mid-run
        counts from 0, and its numbers mean nothing for this run's positions.
        """
        for frame in frames:
            self._series = frame.series if self._series is None else self._series
            if self.by == "index" and frame.series != self._series:
                self.unmatched += 1
                continue
            if self.by == "time":
                self.clock.frame(frame.time, frame.arrived)
            self._waiting.append(frame)
        joined = self._by_index() if self.by == "index" else self._by_time()
        while len(self._waiting) > self._limit:
            self._waiting.popleft()
            self.unmatched += 1
        return joined

    def _by_index(self) -> list[Joined]:
        joined: list[Joined] = []
        still: deque[SourceFrame] = deque()
        for frame in self._waiting:
            place = frame.position or self._positions.pop(frame.index, None)
            if place is None:
                still.append(frame)
            else:
                joined.append((frame, *place))
        self._waiting = still
        return joined

    def _by_time(self) -> list[Joined]:
        self._sort_in()
        offset = self.clock.seconds
        if offset is None or not len(self._times) or not self._waiting:
            return []
        stamps = np.array([frame.time for frame in self._waiting]) + self._shift_s
        if self._one_per_frame:
            places, known = self._nearest(stamps, offset)
        else:
            places, known = self._interpolated(stamps + offset)
        joined: list[Joined] = []
        still: deque[SourceFrame] = deque()
        for frame, place, verdict in zip(self._waiting, places.tolist(), known.tolist(), strict=True):
            if frame.position is not None or verdict == 1:
                joined.append((frame, *(frame.position or place)))
            elif verdict == 0:
                still.append(frame)
            else:
                self.unmatched += 1
        self._waiting = still
        return joined

    def _sort_in(self) -> None:
        if not self._fresh:
            return
        times = np.concatenate([self._times, *(times for times, _ in self._fresh)])
        yx = np.concatenate([self._yx, *(yx for _, yx in self._fresh)])
        self._fresh.clear()
        if (np.diff(times) <= 0).any():
            times, first = np.unique(times, return_index=True)
            yx = yx[first]
        self._times, self._yx = times[-SAMPLES_KEPT:], yx[-SAMPLES_KEPT:]

    def _interpolated(self, stamps: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]:
        """Return (N, 2) positions and (N,) verdicts: 1 known, 0 not yet, -1 never."""
        right = np.searchsorted(self._times, stamps, side="left")
        exact = (right < len(self._times)) & (self._times[np.minimum(right, len(self._times) - 1)] == stamps)
        left = np.where(exact, right, right - 1)
        verdict = np.where(right >= len(self._times), 0, np.where(left < 0, -1, 1)).astype(np.int8)
        verdict[~np.isfinite(stamps)] = -1
        a, b = np.clip(left, 0, None), np.minimum(right, len(self._times) - 1)
        span = self._times[b] - self._times[a]
        verdict[(verdict == 1) & (span > self._max_gap_s)] = -1
        part = np.where(span > 0, (stamps - self._times[a]) / np.where(span > 0, span, 1), 0)[:, None]
        return self._yx[a] * (1 - part) + self._yx[b] * part, verdict

    def _nearest(
        self, stamps: npt.NDArray[np.float64], offset: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]:
        """Return what :meth:`_interpolated` does, from the sample of the same trigger."""
        interval = float(np.median(np.diff(self._times))) if len(self._times) > 1 else self._max_gap_s
        if not self._refined and self.clock.estimated:
            inside = np.isfinite(stamps) & (stamps + offset <= self._times[-1]) & (stamps + offset >= self._times[0])
            if inside.any():
                residual = self._times[nearest(self._times, stamps[inside] + offset)] - stamps[inside] - offset
                correction = float(np.median(residual))
                self.clock.shift(correction)
                offset, self._refined = offset + correction, True
        wanted = stamps + offset
        place = nearest(self._times, np.nan_to_num(wanted))
        close = np.abs(self._times[place] - wanted) <= interval / 2
        later = wanted > self._times[-1] + interval / 2
        verdict = np.where(close, 1, np.where(later, 0, -1)).astype(np.int8)
        verdict[~np.isfinite(stamps)] = -1
        return self._yx[place], verdict
