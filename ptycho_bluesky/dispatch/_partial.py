"""What a running reconstruction looks like, in Tiled every few seconds. Heavy: imported by runners alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import httpx

from ptycho_bluesky.catalog import PartialNode, connect, drop_partial, partial_jobs
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._status import FINAL
from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.reconstruction import phase_and_amplitude

__all__ = ["PartialImages"]

logger = logging.getLogger(__name__)

CONNECT_S = 2.0
"""Longest time to wait for Tiled; the next image tries again."""

SHARE = 10
"""The pause is that many times as long as an image took: neither engine nor server has much to do with it."""


class PartialImages:
    """Shows the newest state of a reconstruction from a thread; nothing that goes wrong with it reaches the engine.

    A context manager. The image stays until the result is registered; of a job that failed or was cancelled it is taken
    away at once, and of one whose runner was killed by the next job that shows images.

    Parameters
    ----------
    job:
        Whose state it is.
    spec:
        Of the job.
    """

    def __init__(self, job: JobFolder, spec: JobSpec) -> None:
        self._job, self._spec = job, spec
        self._every_s = settings().partial_images_s
        self._newest: Any = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._work, name="partial-images", daemon=True)
        self._dropped = False

    def __enter__(self) -> PartialImages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dropped = error is not None or self._job.cancel_file.exists()
        self._left.set()
        if self._thread.is_alive():
            self._thread.join(2 * CONNECT_S)  # it may be waiting for Tiled, and is a daemon

    def beside(self, on_state: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return a function that hands a state to `on_state`, and keeps it to be shown."""

        def tell(state: Any) -> None:
            on_state(state)
            if self._every_s and hasattr(state, "problem"):  # ranks tell of numbers alone
                first, self._newest = self._newest is None, state  # its arrays are never written to again
                if first and not self._thread.is_alive() and not self._left.is_set():
                    self._thread.start()

        return tell

    def _work(self) -> None:
        client: Any = None
        node: PartialNode | None = None
        pause_s, shown = self._every_s, None
        with ExitStack() as open_until_end:
            while not self._left.wait(pause_s):
                state, began = self._newest, time.monotonic()
                if state is shown or not state.model.is_finite():
                    continue
                try:
                    if node is None:
                        client = connect(CONNECT_S)
                        open_until_end.enter_context(client.context)
                        node = PartialNode(client, self._job.job_id)
                        self._sweep(client)
                    node.show(*phase_and_amplitude(state), self._news(state))
                    shown = state
                except (PtychoError, httpx.HTTPError, OSError, KeyError, ValueError) as error:  # Tiled is away
                    logger.info("no partial image in Tiled: %s", error)
                except Exception:  # whatever it is, the reconstruction must not know of it
                    logger.exception("there will be no more partial images in Tiled")
                    break
                pause_s = max(self._every_s, SHARE * (time.monotonic() - began))
            if node is not None and self._dropped:
                drop_partial(client, self._job.job_id)

    def _news(self, state: Any) -> dict[str, Any]:
        grid = state.problem.grid
        return {
            "raw_uid": self._spec.raw_uid,
            "engine": self._spec.engine,
            "epoch": state.epoch,
            "epochs": state.epochs or None,
            "r_factor": float(state.r_factor),
            "frames": len(state.problem),
            "pixel_size": float(grid.pixel_size),
            "origin": [float(value) for value in grid.origin],
        }

    def _sweep(self, client: Any) -> None:
        """Take away the images of jobs of this machine that have ended: their runners were killed."""
        for job_id in partial_jobs(client):
            other = JobFolder(self._job.path.parent / job_id)
            if job_id != self._job.job_id and other.status_file.exists() and other.status().state in FINAL:
                drop_partial(client, job_id)
