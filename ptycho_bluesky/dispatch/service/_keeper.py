"""What the dispatcher does by itself: starts what waits, finds what is lost, retries, registers, cleans."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._clean import clean
from ptycho_bluesky.dispatch._executor import Executor
from ptycho_bluesky.dispatch._pending import register_pending
from ptycho_bluesky.dispatch._status import JobStatus
from ptycho_bluesky.dispatch._warm_client import ensure_warm, is_warm
from ptycho_bluesky.errors import DispatchError

__all__ = ["Keeper"]

logger = logging.getLogger(__name__)

TEND_S = 0.5
"""Time between two looks at the jobs that wait or run."""

WARM_S = 10.0
"""Time between two looks at the warm process."""

READ_S = 60.0
"""Time between two readings of all job folders, and two attempts to register what waits for Tiled."""

CLEAN_S = 3600.0
"""Time between two cleanings."""

END_S = 5.0
"""Longest time that a duty has to end; one that still waits for Tiled is left behind."""

YOUNG_S = 24 * 3600.0
"""What was lost longer ago is not retried: whoever waited for it has given up."""


class Keeper:
    """Looks after all jobs of one ledger, from threads of its own.

    It knows nothing that is not in the jobs' folders: killed and started again it goes on where it was.

    Parameters
    ----------
    executor:
        Starts and retries.
    retries:
        How often a job is started again whose machine failed.
    warm:
        Whether to keep a warm process.
    """

    def __init__(self, executor: Executor, *, retries: int, warm: bool = True) -> None:
        self.executor, self.ledger, self.retries = executor, executor.ledger, retries
        self._ended = threading.Event()
        duties: list[tuple[str, Callable[[], None], float]] = [
            ("tending", self.tend, TEND_S),
            ("reading", self.read, READ_S),
            ("registering", self.register, READ_S),
            ("cleaning", self.clean, CLEAN_S),
        ]
        if warm:
            duties.append(("warming", self.keep_warm, WARM_S))
        self._threads = [
            threading.Thread(target=self._again, args=duty, name=f"dispatcher-{duty[0]}", daemon=True)
            for duty in duties
        ]

    def start(self) -> None:
        """Begin with everything at once: what is alive is taken up, what died is found."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End within a moment; jobs go on."""
        self._ended.set()
        for thread in self._threads:
            thread.join(END_S)

    def _again(self, name: str, duty: Callable[[], None], every_s: float) -> None:
        while not self._ended.is_set():
            try:
                duty()
            except Exception:  # whatever it is, the others' jobs must be looked after
                logger.exception("%s failed; it is tried again in %g s", name, every_s)
            self._ended.wait(every_s)

    def tend(self) -> None:
        """Find the dead, retry those whose machine failed, start the runners whose turn is near."""
        self.ledger.unfinished()
        for status in self.ledger.ended(time.time() - YOUNG_S):
            if self._deserves_another(status):
                why = f"retried by the dispatcher, {status.attempt} of {self.retries}: {status.reason}"
                try:
                    self.executor.retry(status.job_id, why)
                except DispatchError as error:  # e.g. the user was faster
                    logger.warning("job %s is not retried: %s", status.job_id, error)
                else:
                    logger.info("job %s: %s", status.job_id, why)
        self.executor.tend()

    def _deserves_another(self, status: JobStatus) -> bool:
        """Whether a job ended by a fault of the machine: one of the data or of the specification stays one."""
        machine = status.state == "lost" or (status.state == "failed" and status.kind == "machine")
        # One that is still saying its last words is retried at the next look.
        return machine and status.attempt <= self.retries and not self.ledger.job(status.job_id).alive()

    def read(self) -> None:
        """Compare the ledger with the folders."""
        self.ledger.jobs()

    def register(self) -> None:
        """Put into Tiled what could not be put there when it was done."""
        if self.ledger.pending():
            from ptycho_bluesky.catalog import connect

            client = connect()
            with client.context:
                register_pending(client, self.ledger)

    def clean(self) -> None:
        """Delete large files of old jobs, where the settings say so."""
        days = settings().keep_days
        if days is not None:
            for cleaned in clean(days, ledger=self.ledger):
                logger.info("job %s: %d bytes deleted by policy", cleaned.job_id, cleaned.bytes)

    def keep_warm(self) -> None:
        """Start the warm process where it is missing; asking it also tells it that it is needed."""
        if not is_warm(self.ledger.folder) and not self._ended.is_set():
            ensure_warm(self.ledger.folder)
