"""Jobs as a dashboard shows them: read from their folders, which cost little and are never waited for."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_bluesky.dispatch import FINAL, JobFolder, JobStatus, Ledger
from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.jupyter import JobNews, Picture

__all__ = ["JobBoard", "job_news", "job_picture", "recent_jobs"]

MOST_JOBS = 12
MOST_VALUES = 200


class JobBoard:
    """The latest jobs as a dashboard lists them, looked up once a second for all who ask."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self._interval_s, self._lock = interval_s, threading.Lock()
        self._known: dict[str, tuple[float, tuple[JobNews, ...]]] = {}

    def news(self, run_uid: str = "") -> tuple[JobNews, ...]:
        """Return what there is to say of the latest jobs, those of `run_uid` first."""
        with self._lock:
            then, news = self._known.get(run_uid, (-math.inf, ()))
            if time.monotonic() - then > self._interval_s:
                news = job_news(recent_jobs(run_uid))
                self._known = {run_uid: (time.monotonic(), news)}
            return news


def recent_jobs(run_uid: str = "") -> list[JobStatus]:
    """Return the latest jobs of this machine, those of `run_uid` first."""
    ledger = Ledger()
    mine = ledger.jobs(None, run_uid) if run_uid else []
    known = {job.job_id for job in mine}
    return [*mine, *(job for job in ledger.jobs() if job.job_id not in known)][:MOST_JOBS]


def job_news(jobs: Iterable[JobStatus]) -> tuple[JobNews, ...]:
    """Return what a dashboard says of jobs; one whose folder has just gone is left out."""
    ledger, news = Ledger(), []
    for status in jobs:
        folder = ledger.job(status.job_id)
        try:
            news.append(_news(folder, status))
        except (PtychoError, OSError):
            continue
    return tuple(news)


def _news(folder: JobFolder, status: JobStatus) -> JobNews:
    spec, progress = folder.spec(), status.progress
    done, total = (progress.get(key) for key in (("epoch", "epochs") if "epoch" in progress else ("step", "steps")))
    final = status.state == "done" and folder.result_file.exists() and spec.recipe == "reconstruct"
    file = folder.result_file if final else folder.partial_file
    return JobNews(
        status.job_id,
        spec.recipe,
        status.state,
        run_uid=spec.raw_uid or "",
        progress=1.0 if status.state == "done" else min(1.0, done / total) if done and total else None,
        r_factor=progress.get("r_factor"),
        curve=_curve(folder.status_file),
        seconds_left=None if status.state in FINAL else progress.get("seconds_left"),
        reason=status.reason,
        picture=int(file.stat().st_mtime * 10) if file.exists() else 0,
        final=final,
    )


def _curve(file: Path) -> tuple[float, ...]:
    """Return the figures of merit that a job has told of since its last attempt began."""
    values: list[float] = []
    for line in file.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # torn by a crash
        if entry.get("state") == "queued":
            values = []
        progress: dict[str, Any] = entry.get("progress") or {}
        value = progress.get("r_factor", progress.get("loss"))
        if isinstance(value, int | float):
            values.append(float(value))
    step = -(-len(values) // MOST_VALUES) or 1
    return tuple(values[::step])


def job_picture(job_id: str, middle: tuple[float, float] | None = None, pixel_m: float | None = None) -> Picture | None:
    """Return the result of a job, or the look at it half way; None where there is none.

    Parameters
    ----------
    job_id:
        Of the job.
    middle:
        Middle of the run's positions, (row, column): a look half way does not tell where it is.
    pixel_m:
        Side of its pixels, metres; None for object pixels.
    """
    from ptycho_bluesky.formats import read_reconstruction

    folder = Ledger().job(job_id)
    if folder.result_file.exists() and folder.spec().recipe == "reconstruct":
        result = read_reconstruction(folder.result_file)
        return Picture(result.phase, result.amplitude, result.origin, result.pixel_size_m or 1.0)
    if middle is None or not folder.partial_file.exists():
        return None
    try:
        with np.load(folder.partial_file) as file:
            whole, side = np.prod(file["object"], axis=0), file["probe"].shape[-1]
    except (OSError, ValueError, KeyError):  # replaced at this very moment
        return None
    pixel = pixel_m or 1.0
    origin = tuple(m + (side - n) * pixel / 2 for m, n in zip(middle, whole.shape, strict=True))
    return Picture(np.angle(whole), np.abs(whole), (origin[0], origin[1]), pixel)
