"""States of a job, what may follow what, and what is known of a job now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["FINAL", "TRANSITIONS", "JobState", "JobStatus"]

JobState = Literal["queued", "running", "cancelling", "done", "failed", "cancelled", "lost"]

TRANSITIONS: dict[JobState, tuple[JobState, ...]] = {
    "queued": ("running", "cancelling", "cancelled", "failed", "lost"),
    "running": ("cancelling", "done", "failed", "cancelled", "lost"),
    "cancelling": ("cancelled", "done", "failed", "lost"),
    "done": (),
    "failed": ("queued",),
    "cancelled": ("queued",),
    # A runner that was only out of sight (a network file system, a sleeping laptop) may report again.
    "lost": ("queued", "running", "done", "failed", "cancelled"),
}
"""What may follow what; the same state again carries news (progress, registration)."""

FINAL: tuple[JobState, ...] = ("done", "failed", "cancelled", "lost")
"""States in which nothing works on the job any more."""


@dataclass(frozen=True)
class JobStatus:
    """What is known of a job now."""

    job_id: str
    state: JobState
    created: float
    """Seconds since 1970."""

    updated: float
    """Seconds since 1970."""

    attempt: int = 1
    reason: str = ""
    """In plain words: what failed, and what to do."""

    kind: str = ""
    """Of a failure: "user" (specification or data), "catalog", "disk", "memory", "time", "machine" or "internal"."""

    progress: dict[str, Any] = field(default_factory=dict)
    """Last news of the engine or the training: epoch or step, r_factor, seconds, seconds_left..."""

    registered: bool | None = None
    """Whether the result is in Tiled; None before there is one."""

    follow_up: str = ""
    """Job that began by itself when this one was done."""

    stopped: bool = False
    """True where the user ended it early and kept the result."""
