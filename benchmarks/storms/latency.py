"""How long a job takes to begin, to be cancelled, and to be in Tiled, cold and from a warm process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ptycho_bluesky.dispatch import FileSource, JobSpec, JobStatus, Ledger, cancel, status, submit, wait, warm_up
from ptycho_bluesky.dispatch._warm_client import end_warm, is_warm


def _spec(path: Path, seed: int, **changes: Any) -> JobSpec:
    options = {"seed": seed, **changes.pop("options", {})}
    return JobSpec(source=FileSource(path=str(path)), options=options, **changes)


def _ended(job_id: str) -> None:
    while Ledger().job(job_id).runner_pid() is not None:
        time.sleep(0.01)


def once(path: Path, seed: int, **changes: Any) -> dict[str, float | None]:
    """Submit a reconstruction; return seconds from there to what happens, and what it came to."""
    begin = time.time()
    job_id = submit(_spec(path, seed, **changes))
    submitted = time.time()
    news: list[tuple[float, dict[str, Any]]] = []
    done: JobStatus = wait(job_id, 600, on_progress=lambda p: news.append((time.time(), p)), poll_s=0.01)
    registered = time.time()
    _ended(job_id)
    first, progress = news[0]
    return {
        "submit_s": round(submitted - begin, 4),
        "computing_after_s": round(first - progress["seconds"] - begin, 2),
        "first_epoch_after_s": round(first - begin, 2),
        "engine_s": news[-1][1]["seconds"],
        "in_tiled_after_s": round(registered - begin, 2) if done.registered else None,
        "r_factor": news[-1][1]["r_factor"],
    }


def cancelled(path: Path, seed: int) -> float:
    """Return the seconds from the request to the end of a running job and of all its processes."""
    job_id = submit(_spec(path, seed, options={"epochs": 100_000}))
    while not status(job_id).progress:
        time.sleep(0.01)
    begin = time.time()
    cancel(job_id)
    _ended(job_id)
    return round(time.time() - begin, 2)


def latency(path: Path, repeats: int = 3, **changes: Any) -> dict[str, Any]:
    """Return the times of one cold job, of the first try, and of several warm ones."""
    folder = Ledger().folder
    cold = once(path, 0, **changes)
    warm_up()
    while not is_warm(folder):
        time.sleep(0.1)
    try:
        warm = [once(path, 1 + i, **changes) for i in range(repeats)]
        ends = [cancelled(path, 100 + i) for i in range(repeats)]
    finally:
        end_warm(folder)
    return {"cold": cold, "warm": warm, "cancel_s": ends}
