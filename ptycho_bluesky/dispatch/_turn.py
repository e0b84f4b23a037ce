"""Turns without a daemon: each waiting runner looks whether it is the next one, and takes a slot, a file lock."""

from __future__ import annotations

import time
from collections.abc import Callable

from ptycho_bluesky._locks import acquire, file_lock, release
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.errors import DispatchError

__all__ = ["wait_for_turn"]

POLL_S = 0.25


def _take(ledger: Ledger, job_id: str, resource: str, slots: int) -> int | None:
    """Return a slot where this job is the next in the queue and one is free."""
    with file_lock(ledger.folder / "turn.lock", timeout_s=5.0) as ours:
        if not ours:
            return None
        queue = ledger.queue(resource)
        if queue and queue[0] != job_id and job_id in queue:
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
    """
    while not given_up():
        slot = _take(ledger, job_id, resource, slots)
        if slot is not None:
            return slot
        time.sleep(POLL_S)
    return None
