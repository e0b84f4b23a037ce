"""A beamline that exists in memory only: for demonstrations, tests, and a look at the dashboard on any machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import DispatchError, PlanError
from ptycho_bluesky.jupyter._source import ACTIONS, Action, FrameNews, JobNews, Picture, Snapshot
from ptycho_bluesky.stream import LiveChanges, LiveTile

__all__ = ["SimulatedSource"]

TILE = 64
PATCH = 64
JOB_S = 12.0
FloatImage = npt.NDArray[np.float32]


class SimulatedSource:
    """A snake scan over a Siemens star that reveals itself patch by patch, with a job that can be dispatched.

    Implements :class:`ptycho_bluesky.jupyter.DashboardSource`. No process, no file, no network: what it shows is
    computed when it is asked, from the time that has gone by.

    Parameters
    ----------
    size:
        Side of the image, pixels.
    frames_per_second:
        Of the simulated detector.
    frames:
        Length of the scan; a square number fills the image evenly. The scan starts again when it is over and
        ``repeat`` is set.
    pixel_size:
        Metres.
    repeat:
        Whether to begin a new run when one has ended.
    clock:
        Returns seconds; by default the time that goes by.
    """

    def __init__(
        self,
        size: int = 512,
        frames_per_second: float = 100.0,
        frames: int = 1024,
        pixel_size: float = 2e-8,
        *,
        repeat: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.size, self.rate, self.total, self.pixel_size = size, frames_per_second, frames, pixel_size
        self.repeat, self._clock = repeat, clock
        self._sample = _siemens_star(size)
        self._rng = np.random.default_rng(0)
        self._number = self._runs = 0
        self._jobs: dict[str, float] = {}
        self._cancelled: dict[str, float] = {}
        self._corners = _snake(frames, size)
        self._begin()

    # the scan ---------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._runs += 1
        self.state, self.exit_status = "running", ""
        self._done, self._since, self._before = 0, self._clock(), 0
        tiles = -(-self.size // TILE)
        self._numbers = np.zeros((tiles, tiles), np.int64)
        self._coverage = np.zeros((self.size, self.size), np.float32)

    def _advance(self) -> None:
        """Bring the scan to where it would be by now."""
        if self.state != "running":
            return
        now = min(self.total, self._before + int(self.rate * (self._clock() - self._since)))
        if now > self._done:
            self._number += 1
            for top, left in self._corners[self._done : now].tolist():
                area = slice(top, top + PATCH), slice(left, left + PATCH)
                self._coverage[area] += _WINDOW
                self._numbers[
                    top // TILE : (top + PATCH - 1) // TILE + 1, left // TILE : (left + PATCH - 1) // TILE + 1
                ] = self._number
            self._done = now
        if self._done == self.total:
            self._end("success")
            if self.repeat:
                self._begin()

    def _end(self, status: str) -> None:
        self.state, self.exit_status = "idle", status

    @property
    def _uid(self) -> str:
        return f"simulated-run-{self._runs}"

    # what a dashboard asks --------------------------------------------------------------------------------------------

    @property
    def actions(self) -> Collection[Action]:
        """All of them."""
        return ACTIONS

    def snapshot(self) -> Snapshot:
        """Return the news."""
        self._advance()
        running = self.state == "running"
        return Snapshot(
            title="simulated Siemens star",
            engine=self.state,
            run_uid=self._uid,
            live="running" if running else "idle",
            frames=self._done,
            expected=self.total,
            inferred=self._done,
            frames_per_second=self.rate if running else 0.0,
            latency_ms_p50=12.0,
            latency_ms_p95=21.0,
            confidence=0.86,
            trusted=None if self._done < 24 else True,
            model="simulated",
            seconds_left=(self.total - self._done) / self.rate if self.state != "idle" else None,
            path_points=self.total,
            stage=self._place(max(self._done - 1, 0)),
            jobs=tuple(self._job(job_id) for job_id in reversed(self._jobs)),
        )

    def _place(self, index: int) -> tuple[float, float]:
        row, column = (self._corners[index] + PATCH / 2) * self.pixel_size
        return float(row), float(column)

    def image(self, since: int) -> LiveChanges | None:
        """Return what has changed since that publication."""
        self._advance()
        if self._number == 0:
            return None
        tiles = []
        for row, column in np.argwhere(self._numbers > since).tolist() if since < self._number else ():
            rows, columns = slice(row * TILE, (row + 1) * TILE), slice(column * TILE, (column + 1) * TILE)
            rows, columns = (
                slice(rows.start, min(rows.stop, self.size)),
                slice(columns.start, min(columns.stop, self.size)),
            )
            coverage = self._coverage[rows, columns].copy()
            seen = coverage > 0
            maps = [np.where(seen, part[rows, columns], np.float32(np.nan)) for part in self._sample]
            confidence = np.where(seen, np.float32(0.9) - np.float32(0.5) * np.exp(-2 * coverage), np.float32(np.nan))
            coverage[~seen] = np.nan
            tiles.append(LiveTile(rows, columns, maps[0], maps[1], coverage, 1 - confidence, confidence))
        shape = self.size, self.size
        return LiveChanges(tuple(tiles), shape, (0.0, 0.0), self.pixel_size, self._uid, self._done, self._number)

    def frame(self) -> FrameNews | None:
        """Return the latest frame: the diffraction of the patch under a round beam, with two dead pixels."""
        self._advance()
        if self._done == 0:
            return None
        top, left = self._corners[self._done - 1]
        phase, amplitude = (part[top : top + PATCH, left : left + PATCH] for part in self._sample)
        far = np.abs(np.fft.fftshift(np.fft.fft2(_WINDOW * amplitude * np.exp(1j * phase)))) ** 2
        pixels = self._rng.poisson(1e5 * far / far.sum()).astype(np.uint32)
        mask = np.zeros(pixels.shape, bool)
        mask[20, 40] = mask[44, 9] = True
        return FrameNews(pixels, mask, self._done - 1)

    def path(self) -> npt.NDArray[np.floating[Any]]:
        """Return the planned positions (N, 2), metres."""
        return (self._corners + PATCH / 2) * self.pixel_size

    def picture(self, job_id: str) -> Picture | None:
        """Return the sample, the less noisy the longer the job has run."""
        done = self._progress(job_id)
        if done < 0.1:
            return None
        noise: FloatImage = self._rng.standard_normal((self.size, self.size), np.float32)
        noise *= np.float32(0.4 * (1 - done) ** 2 + 0.01)
        noise[self._coverage < 0.05] = np.nan
        phase, amplitude = self._sample
        return Picture(phase + noise, amplitude + noise / np.float32(4), (0.0, 0.0), self.pixel_size)

    # jobs -------------------------------------------------------------------------------------------------------------

    def _progress(self, job_id: str) -> float:
        end = self._cancelled.get(job_id, self._clock())
        return min(1.0, (end - self._jobs[job_id]) / JOB_S) if job_id in self._jobs else 0.0

    def _job(self, job_id: str) -> JobNews:
        done = self._progress(job_id)
        curve = tuple(0.02 + 0.5 * math.exp(-k / 9) for k in range(int(60 * done) + 1))
        news = JobNews(
            job_id,
            "reconstruct",
            "done" if done == 1 else "running",
            self._uid,
            progress=done,
            r_factor=curve[-1],
            curve=curve,
            seconds_left=JOB_S * (1 - done),
            picture=int(10 * done),
            final=done == 1,
        )
        return replace(news, state="cancelled", seconds_left=None) if job_id in self._cancelled else news

    # actions ----------------------------------------------------------------------------------------------------------

    def act(self, action: Action, job_id: str = "") -> str:
        """Do the `action` of a button, and return in words what was done; `job_id` is that of a job to cancel.

        Raises
        ------
        PlanError
            When the scan's state does not allow it.
        DispatchError
            When there is no such job, or it has ended.
        """
        self._advance()
        if action == "dispatch":
            job_id = f"simulated-{len(self._jobs) + 1:04d}"
            self._jobs[job_id] = self._clock()
            return f"job {job_id} begins"
        if action == "cancel_job":
            if not 0 <= self._progress(job_id) < 1 or job_id not in self._jobs or job_id in self._cancelled:
                raise DispatchError(f"job {job_id!r} does not run; choose one that does")
            self._cancelled[job_id] = self._clock()
            return f"job {job_id} is cancelled"
        wanted = {"pause": ("running",), "resume": ("paused",)}.get(action, ("running", "paused"))
        if self.state not in wanted:
            raise PlanError(f"the scan is {self.state}; {action} needs it {' or '.join(wanted)}")
        if action == "pause":
            self.state, self._before = "paused", self._done
            return "paused"
        if action == "resume":
            self.state, self._since = "running", self._clock()
            return "goes on"
        self._end("abort" if action == "abort" else "success")
        return "aborted" if action == "abort" else f"ended with {self._done} frames kept"


def _window() -> FloatImage:
    y, x = np.mgrid[-1 : 1 : PATCH * 1j, -1 : 1 : PATCH * 1j]
    window: FloatImage = np.clip(1.6 * (1 - np.hypot(y, x)), 0, 1).astype(np.float32)
    return window


_WINDOW = _window()


def _snake(frames: int, size: int) -> npt.NDArray[np.int64]:
    """Return the upper left corners of the patches, (N, 2), line by line there and back."""
    side = math.ceil(math.sqrt(frames))
    steps = np.linspace(0, size - PATCH, side)
    rows, columns = np.repeat(steps, side), np.tile(steps, (side, 1))
    columns[1::2] = columns[1::2, ::-1]
    return np.stack([rows, columns.ravel()], 1).round().astype(np.int64)[:frames]


def _siemens_star(size: int) -> tuple[FloatImage, FloatImage]:
    """Return phase (radians) and amplitude of a star with a soft slope below it."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius, spokes = np.hypot(y, x), np.sin(36 * np.arctan2(y, x)) > 0
    rings = (np.floor(radius * 5) % 1 == 0) & (radius * 5 % 1 < 0.1)
    star = (spokes & (radius > 0.06) & (radius < 0.92) & ~rings).astype(np.float32)
    phase = 1.2 * star + 0.5 * np.sin(2.5 * x) * np.cos(1.5 * y)
    return phase.astype(np.float32), (1 - 0.25 * star).astype(np.float32)
