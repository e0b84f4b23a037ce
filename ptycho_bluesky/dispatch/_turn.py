"""Turns without a daemon: each waiting runner looks whether it is the next one, and takes a slot, a file lock.

Few runners wait; the jobs behind them are folders, which cost no memory. A runner that ends has the next one started.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from itertools import islice

from ptycho_bluesky._locks import acquire, file_lock, release
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._warm_client import is_warming
from ptycho_bluesky.errors import DispatchError

__all__ = ["to_be_launched", "wait_for_turn"]

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""Longest time between two looks."""

AHEAD = 4
"""Runners that wait for a device of this machine: one takes its turn at once, and some may be killed."""


def to_be_launched(ledger: Ledger) -> list[JobFolder]:
    """Return the jobs that should have a runner and have none: the next few for each device, all for other places.

    While a warm process is loading, the next one is enough: the others start sooner by waiting for it.
    """
    chosen = []
    ahead = 1 if is_warming(ledger.folder) else AHEAD
    for resource, queue in ledger.queues().items():
        here = re.fullmatch(r"cpu|cuda:\d+", resource) is not None
        waiting = (job for job in _folders(ledger, queue) if ledger.refreshed(job).state == "queued")
        chosen += [job for job in islice(waiting, ahead if here else None) if not job.runner_file.exists()]
    return chosen


def _folders(ledger: Ledger, queue: list[str]) -> Iterator[JobFolder]:
    """Yield the jobs of a queue, without those whose folder was deleted."""
    for job_id in queue:
        job = JobFolder(ledger.folder / job_id)
        if job.spec_file.exists():
            yield job


def _next(ledger: Ledger, resource: str) -> str | None:
    """Return the first job in the queue whose runner waits; dead ones leave the queue here."""
    launched = (job for job in _folders(ledger, ledger.queues().get(resource, [])) if job.runner_file.exists())
    return next((job.job_id for job in launched if ledger.refreshed(job).state == "queued"), None)


def _take(ledger: Ledger, job_id: str, resource: str, slots: int) -> int | None:
    """Return a slot where this job is the next in the queue and one is free."""
    with file_lock(ledger.folder / "turn.lock", timeout_s=5.0) as ours:
        if not ours:
            return None
        if _next(ledger, resource) not in (job_id, None):
            return None
        for index in range(slots):
            slot = acquire(ledger.folder / f"slot-{resource.replace(':', '-')}-{index}.lock")
            if slot is None:
                continue
            try:
                ledger.record(ledger.job(job_id), "running")  # out of the queue before the next one looks
            except DispatchError:  # cancelled at this very moment
                release(slot)
                return None
            return slot
    return None


def wait_for_turn(ledger: Ledger, job_id: str, resource: str, slots: int, given_up: Callable[[], bool]) -> int | None:
    """Wait until a slot of `resource` is free and no better job waits, and mark the job as running.

    The slot is freed when this process dies, however it dies.

    Returns
    -------
    int or None
        The slot's lock; None where `given_up` became True first.

    Raises
    ------
    DispatchError
        When the job's folder was deleted.
    """
    if slots == 0 and not given_up():  # a scheduler has given it its turn
        ledger.record(ledger.job(job_id), "running")
        return acquire(ledger.folder / job_id / "slot.lock")
    begin = time.monotonic()
    while not given_up():
        ledger.job(job_id)  # it ends where the folder was deleted
        slot = None
        try:
            slot = _take(ledger, job_id, resource, slots)
        except DispatchError as error:  # the ledger is busy or its disk full: no reason to give up the job
            logger.warning("%s", error)
        if slot is not None:
            return slot
        time.sleep(min(POLL_S, max(0.02, 0.1 * (time.monotonic() - begin))))  # where jobs are short, turns are quick
    return None
