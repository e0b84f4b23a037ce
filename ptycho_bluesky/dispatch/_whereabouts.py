"""Where a job ran and how long it took, for the provenance of its result."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

from ptycho_bluesky.dispatch._folder import JobFolder

__all__ = ["whereabouts"]


def whereabouts(job: JobFolder) -> dict[str, Any]:
    """Return where the calling runner runs, and the times of its job until now.

    Returns
    -------
    dict
        ``place`` of the settings, ``kind`` of launcher, ``scheduler_job`` (its number there, or None), ``nodes`` (as
        the scheduler names them, or this host), ``ranks``, ``attempt``, ``queue_s`` (from its entry, or last retry, to
        its turn), ``run_s`` (since then); seconds.
    """
    runner, spec, entered, began = job.runner() or {}, job.spec(), None, None
    for event in job.history():
        if event["state"] == "queued" and "asked" not in event:
            entered, began = event["t"], None
        elif event["state"] == "running" and began is None:
            began = event["t"]
    now = time.time()
    began = now if began is None else began
    return {
        "place": spec.place,
        "kind": runner.get("kind", "local"),
        "scheduler_job": os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID") or runner.get("id"),
        "nodes": os.environ.get("SLURM_JOB_NODELIST") or platform.node(),
        "ranks": spec.ranks,
        "attempt": job.status().attempt,
        "queue_s": round(began - (began if entered is None else entered), 3),
        "run_s": round(now - began, 3),
    }
