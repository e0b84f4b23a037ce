"""A reconstruction that begins during the scan: the runner follows the run in Tiled. Heavy: imported by runners alone.

A thread fetches the frames; the engine works on those that are there, and once more on all of them after the scan.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import httpx
import numpy as np

from ptycho_bluesky.catalog import RunFollower, connect, resend_backups
from ptycho_bluesky.dispatch._spec import TiledSource
from ptycho_bluesky.errors import PtychoError, ReconstructionError
from ptycho_bluesky.reconstruction import GrowingDataset

__all__ = ["RunFeed"]

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""Shortest time between two looks at Tiled; a look that takes long is followed by a pause as long, since the server
has the scan to serve."""

RESEND_S = 5.0
"""Time without news after which the run's journal is looked for: its console may have died."""

PIECE = 256
"""Frames that are read at once."""


class RunFeed:
    """Fills a dataset with the frames of a run while it is measured; a context manager, whose thread ends with it.

    Parameters
    ----------
    source:
        The run; its ``wait_s`` is the longest time without a new frame.
    should_stop:
        Asked between two looks; True ends the feed with what there is.
    max_seconds:
        Time that the work may take after the scan, seconds; None for no limit.
    """

    def __init__(self, source: TiledSource, should_stop: Callable[[], bool], max_seconds: float | None = None) -> None:
        self._source, self._stopped, self._max_seconds = source, should_stop, max_seconds
        self._growing: GrowingDataset | None = None
        self._problem: PtychoError | None = None
        self._begun, self._left = threading.Event(), threading.Event()
        self._ended_at = float("inf")
        self._thread = threading.Thread(target=self._feed, name="run-feed", daemon=True)

    def __enter__(self) -> RunFeed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join(5.0)  # it may be waiting for Tiled, and is a daemon

    def dataset(self) -> GrowingDataset | None:
        """Wait for the first frames and return the dataset that grows; None where it was told to stop before.

        Raises
        ------
        PtychoError
            When no frame came for too long, or the run cannot be understood.
        """
        self._begun.wait()
        if self._growing is None and self._problem is not None:
            raise self._problem
        return self._growing

    def should_stop(self) -> bool:
        """Whether the engine is to end with what there is: told to, or out of time since the end of the scan."""
        if self._stopped() or self._problem is not None:
            return True
        return self._max_seconds is not None and time.monotonic() - self._ended_at > self._max_seconds

    def check(self) -> None:
        """Raise what kept the feed from its work; a result without the frames that are missing is none."""
        if self._problem is not None:
            raise self._problem

    def _feed(self) -> None:
        try:
            self._follow()
        except PtychoError as error:
            self._problem = error
        except Exception as error:  # it must not leave the engine waiting
            logger.exception("run %s cannot be followed", self._source.uid[:8])
            self._problem = ReconstructionError(f"run {self._source.uid} cannot be followed: {error!r}; retry the job")
        finally:
            self._ended_at = time.monotonic()
            if self._growing is not None:
                self._growing.finish()
            self._begun.set()

    def _follow(self) -> None:
        client = connect()
        with client.context:
            run = RunFollower(client, self._source.uid)
            last = resent = time.monotonic()
            while not (self._left.is_set() or self._stopped()):
                began, problem = time.monotonic(), None
                try:
                    if run.look():
                        self._take_all(run)
                        last = resent = time.monotonic()
                    if run.ended and not run.left:
                        break
                except (httpx.HTTPError, KeyError, PtychoError) as error:  # not there yet, or away for a moment
                    if run.ended and isinstance(error, PtychoError):
                        raise
                    problem = error
                now = time.monotonic()
                if now - resent > RESEND_S:
                    resent = now
                    self._resend(client)
                if now - last > self._source.wait_s:
                    self._give_up(problem)
                    break
                self._left.wait(max(LOOK_S, now - began))

    def _take_all(self, run: RunFollower) -> None:
        while run.left and not (self._left.is_set() or self._stopped()):
            part = run.take(PIECE)
            if self._growing is None:
                self._growing = GrowingDataset(part, self._source.wait_s + 60.0)
                self._begun.set()
            else:
                self._growing.append(np.asarray(part.frames), part.positions, part.mask)

    def _resend(self, client: Any) -> None:
        try:
            if resend_backups(client, self._source.uid):
                logger.info("run %s came from its journal", self._source.uid)
        except (PtychoError, httpx.HTTPError) as error:
            logger.info("the journal of run %s cannot be sent: %s", self._source.uid[:8], error)

    def _give_up(self, problem: Exception | None) -> None:
        """No frame came for too long: what there is becomes the result, and nothing is a failure."""
        said = f" ({problem})" if problem else ""
        text = f"no frame of run {self._source.uid} has come for {self._source.wait_s:.0f} s{said}"
        if self._growing is None:
            raise ReconstructionError(f"{text}; check that the RunEngine has tiled_writer(client), then retry the job")
        logger.warning("%s; it is reconstructed from %d frames", text, len(self._growing))
