"""What a dashboard shows and what its buttons do: the seam between the view and whatever runs the beamline."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.stream import LiveChanges

__all__ = ["ACTIONS", "Action", "DashboardSource", "FrameNews", "JobNews", "Picture", "Snapshot"]

Action = Literal["pause", "resume", "abort", "stop_and_keep", "dispatch", "cancel_job"]

ACTIONS: tuple[Action, ...] = ("pause", "resume", "abort", "stop_and_keep", "dispatch", "cancel_job")
"""Every action a dashboard knows, in the order of its buttons."""


@dataclass(frozen=True)
class JobNews:
    """A job as the dashboard lists it."""

    job_id: str
    recipe: str
    """"reconstruct" or "train"."""
    state: str
    """As in :class:`ptycho_bluesky.dispatch.JobStatus`."""
    run_uid: str = ""
    """Run whose data it works on."""
    progress: float | None = None
    """0 to 1; None where it cannot be told."""
    r_factor: float | None = None
    curve: tuple[float, ...] = ()
    """R factor (training: loss) against time, oldest first; 200 values or fewer."""
    seconds_left: float | None = None
    reason: str = ""
    """Of a failure, in plain words."""
    picture: int = 0
    """Grows when :meth:`DashboardSource.picture` has something new of this job; 0 while there is nothing."""
    final: bool = False
    """Whether that picture is the result, and not a look at it half way."""


@dataclass(frozen=True)
class Snapshot:
    """Small news, a few times a second. Every number may be missing: None where it is not known."""

    title: str = ""
    """Sample, plan or file, for people."""
    engine: str = ""
    """State of the RunEngine ("idle", "running", "pausing", "paused", ...); empty where there is none."""
    blocking: bool = False
    """Whether the plan runs in the kernel's main thread, by ``RE(plan)`` in a cell: buttons then interrupt it."""
    run_uid: str = ""
    live: str = ""
    """State of the live inference, as in :class:`ptycho_bluesky.stream.LiveStatus`; empty where there is none."""
    message: str = ""
    """Trouble in plain words; empty where there is none."""
    frames: int = 0
    expected: int | None = None
    inferred: int = 0
    dropped: int = 0
    refused: int = 0
    frames_per_second: float = 0.0
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    confidence: float | None = None
    trusted: bool | None = None
    doubt: str = ""
    """Why the image may not be believed, where `trusted` is False."""
    model: str = ""
    """Network in service."""
    seconds_left: float | None = None
    """Until the scan is over."""
    path_points: int = 0
    """Length of :meth:`DashboardSource.path` now."""
    stage: tuple[float, float] | None = None
    """Where the stage is, (row, column), in the unit of the image's origin."""
    jobs: tuple[JobNews, ...] = ()
    """Newest first."""


@dataclass(frozen=True)
class FrameNews:
    """A frame as the detector gave it."""

    pixels: npt.NDArray[Any]
    """(H, W), counts."""
    mask: npt.NDArray[np.bool_] | None
    """(H, W), True where a pixel is not to be used; None where every one may be."""
    number: int
    """Of the frame in its run, from 0."""


@dataclass(frozen=True)
class Picture:
    """A reconstruction of the same sample, to be compared with the live image."""

    phase: npt.NDArray[np.float32]
    """(Y, X), radians; NaN where nothing was measured."""
    amplitude: npt.NDArray[np.float32]
    """(Y, X), transmission; NaN where nothing was measured."""
    origin: tuple[float, float]
    """Position (row, column) of pixel (0, 0), in the unit of the live image's origin."""
    pixel_size: float
    """Side of a pixel in that unit."""


class DashboardSource(Protocol):
    """What a dashboard is given: looks that cost little and never wait, and actions that return at once.

    All are called from a thread of the dashboard's own; the actions also from the thread that hears the browser.
    """

    @property
    def actions(self) -> Collection[Action]:
        """Those that are obeyed now or later; none makes a dashboard that only shows."""

    def snapshot(self) -> Snapshot:
        """Return the news."""

    def image(self, since: int) -> LiveChanges | None:
        """Return what has changed in the live image since that publication; None before the first image.

        As :meth:`ptycho_bluesky.stream.LiveView.changes`.
        """

    def frame(self) -> FrameNews | None:
        """Return the latest frame; None where there is none. Asked a few times a second at most."""

    def path(self) -> npt.NDArray[np.floating[Any]]:
        """Return the run's scan positions as planned, else those so far; (N, 2), in the unit of the image's origin."""

    def picture(self, job_id: str) -> Picture | None:
        """Return what a job has of the sample now: half way, or its result."""

    def act(self, action: Action, job_id: str = "") -> str:
        """Do the `action` of a button, and return in plain words what was done; `job_id` belongs to ``cancel_job``.

        ``pause`` waits for the next checkpoint, ``abort`` drops the rest and marks the run so, ``stop_and_keep`` ends
        the scan here as a good one, ``dispatch`` sends the run (what there is of it) to be reconstructed.

        Raises
        ------
        PtychoError
            When it cannot be done now; the text is shown.
        """
