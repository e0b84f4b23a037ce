"""When each frame of a flight is taken, and a thread that keeps to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import FlyPath

__all__ = ["Flight", "frame_times"]

TICK_S = 0.02
"""Frames of this time are written together; their delay in documents is at most this much longer."""

RUN_UP_S = 0.02
"""In which the axes reach the speed of a line."""


def frame_times(path: FlyPath, velocity: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (N,) the begin of each exposure in seconds after the start.

    Parameters
    ----------
    path:
        One frame each period inside of a line; before each line the axes turn round and run up.
    velocity:
        (2,) highest of y and x, for the ways between lines.
    """
    first = np.array([start for start, _ in path.lines])
    ways = np.abs(path.begin[first[1:]] - path.end[first[1:] - 1])
    turns = np.concatenate([[RUN_UP_S], RUN_UP_S + (ways / velocity).max(axis=1)])
    pauses = np.zeros(len(path))
    pauses[first] = turns
    pauses[first[1:]] -= path.period_s - path.exposure_s  # a line is over with its last exposure
    return np.asarray(np.cumsum(pauses) + np.arange(len(path)) * path.period_s)


class Flight:
    """Calls ``take(start, stop)`` for the frames that are due, until all are taken, and then ``over(error)``.

    Nothing is skipped where the disk is slow: frames are taken later. All calls come under one lock.

    Parameters
    ----------
    begins:
        (N,) seconds after the start.
    exposure_s:
        After which a frame is there.
    take, over:
        What to do; `over` gets None or the exception that ended the flight.
    """

    def __init__(
        self,
        begins: npt.NDArray[np.float64],
        exposure_s: float,
        take: Callable[[int, int], None],
        over: Callable[[Exception | None], None],
    ) -> None:
        self._begins, self._exposure_s, self._take, self._over = begins, exposure_s, take, over
        self._changed = threading.Condition(threading.RLock())
        self._zero, self._started, self._paused, self._ended = 0.0, False, False, False
        self.taken = 0
        self._thread = threading.Thread(target=self._run, name="ptycho-bluesky-flight", daemon=True)

    @property
    def flying(self) -> bool:
        """True from the start to the end, in a pause too."""
        return self._started and not self._ended

    def start(self) -> None:
        """Begin to fly."""
        self._zero, self._started = time.monotonic(), True
        self._thread.start()

    def pause(self) -> None:
        """Finish the frame in progress and halt."""
        with self._changed:
            if self._paused or self._ended:
                return
            self._paused = True
            self._take_up_to(int(np.searchsorted(self._begins, time.monotonic() - self._zero)))
            self._changed.notify_all()

    def resume(self) -> None:
        """Run up and go on at the first frame not yet taken."""
        with self._changed:
            if self._paused and self.taken < len(self._begins):
                self._zero = time.monotonic() + RUN_UP_S - float(self._begins[self.taken])
            self._paused = False
            self._changed.notify_all()

    def stop(self, error: Exception | None) -> None:
        """Halt at once, and end the flight."""
        with self._changed:
            self._end(error)
            self._changed.notify_all()

    def _run(self) -> None:
        ends = self._begins + self._exposure_s
        with self._changed:
            while not self._ended:
                if not self._paused:
                    self._take_up_to(int(np.searchsorted(ends, time.monotonic() - self._zero, "right")))
                if self.taken == len(ends):
                    self._end(None)
                    return
                if self._paused:
                    self._changed.wait()
                else:
                    self._changed.wait(max(TICK_S, self._zero + float(ends[self.taken]) - time.monotonic()))

    def _take_up_to(self, stop: int) -> None:
        if self._ended or stop <= self.taken:
            return
        try:
            self._take(self.taken, stop)
            self.taken = stop
        except Exception as error:  # noqa: BLE001, of a detector or the disk: it ends the flight, and is its result
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._over(error)
