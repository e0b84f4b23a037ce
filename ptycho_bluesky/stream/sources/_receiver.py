"""What all sources share: a thread that receives, checks and queues; a reader that never waits without end."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy.typing as npt

from ptycho_bluesky.errors import PtychoError, SourceError
from ptycho_bluesky.stream.sources._frame import DamagedFrame, SourceEnded, SourceFrame
from ptycho_bluesky.stream.sources._index_check import IndexCheck, SourceCounts
from ptycho_bluesky.stream.sources._queue import BackPressure, FrameQueue

__all__ = ["POLL_S", "ReceivingSource"]

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""Longest time for which a receiving thread does not look whether it is to stop."""
JOIN_S = 3.0

S = TypeVar("S", bound="ReceivingSource")


class ReceivingSource:
    """A source whose frames are received by a thread of its own; transports fill in :meth:`_receive`.

    Parameters
    ----------
    name:
        The URI, for messages.
    back_pressure:
        What happens to frames that are not read in time.
    """

    def __init__(self, name: str, back_pressure: BackPressure | None = None) -> None:
        self.name = name
        self.counts = SourceCounts()
        self.connected = False
        self.fault = ""
        """Why the source is not connected, or empty."""
        self._check = IndexCheck(self.counts)
        self._queue = FrameQueue(back_pressure or BackPressure())
        self._kind: tuple[int, tuple[int, ...], str] | None = None  # series, shape and dtype of its frames
        self._closing = threading.Event()
        self._broken: PtychoError | None = None
        self._thread = threading.Thread(target=self._run, name=f"receive {name}", daemon=True)

    def start(self: S) -> S:
        """Begin to receive."""
        self._thread.start()
        return self

    def _receive(self) -> None:
        """Receive until ``self._closing`` is set, looking at it every ``POLL_S``."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self._receive()
        except PtychoError as error:
            self._broken = error
        except Exception as error:
            logger.exception("receiving from %s broke off", self.name)
            self._broken = SourceError(f"receiving from {self.name} broke off: {type(error).__name__}: {error}")
        finally:
            self.connected = False
            if self._broken is not None:
                self.fault = str(self._broken)
                self._queue.close()

    # what transports call, in their thread ----------------------------------------------------------------------------

    def _admit(
        self,
        index: int,
        when: float,
        decode: Callable[[], npt.NDArray[Any]],
        position: tuple[float, float] | None = None,
    ) -> None:
        """Check a frame's number, make its pixels by `decode` (which may raise DamagedFrame), and queue it."""
        arrived = time.time()
        if not self._check.accept(index, when):
            return
        try:
            pixels = decode()
            self._check_kind(pixels)
        except DamagedFrame as reason:
            self.counts.damage(str(reason))
            return
        self.counts.received += 1
        frame = SourceFrame(index, when, pixels, self._check.series, arrived, position)
        self.counts.discarded += self._queue.put(frame)

    def _check_kind(self, pixels: npt.NDArray[Any]) -> None:
        """Refuse a frame of another shape or dtype than the first of its series."""
        kind = self._check.series, pixels.shape, pixels.dtype.name
        if self._kind is None or self._kind[0] != kind[0]:
            if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype.kind not in "uif":
                raise DamagedFrame(f"{kind[2]} of shape {kind[1]}, not a picture of numbers")
            self._kind = kind
        elif self._kind != kind:
            raise DamagedFrame(f"{kind[2]} of shape {kind[1]} in a series of {self._kind[2]} of shape {self._kind[1]}")

    def _damaged(self, reason: str) -> None:
        """Count something that arrived and is no frame."""
        self.counts.damage(reason)

    def _end_series(self, text: str) -> None:
        self._queue.put(SourceEnded(f"{self.name}: {text}"))

    def _connection(self, there: bool, fault: str = "") -> None:
        if self.connected and not there:
            self._check.lost_touch()
        self.connected, self.fault = there, fault

    # what readers call ------------------------------------------------------------------------------------------------

    def read(self, timeout_s: float) -> list[SourceFrame]:
        """Return what has arrived, in order of arrival; empty where nothing came within `timeout_s` seconds.

        Raises
        ------
        SourceEnded
            Once for each series that the source ended, when its last frame has been read.
        SourceError
            When the source was closed, or broke off in a way that waiting does not mend.
        """
        if not (math.isfinite(timeout_s) and timeout_s >= 0):
            raise SourceError(f"timeout_s is {timeout_s}; give seconds, 0 or more")
        frames = self._queue.take(timeout_s)
        if not frames and self._broken is not None:
            raise self._broken
        if not frames and self._closing.is_set():
            raise SourceError(f"{self.name} has been closed; open it again to read on")
        return frames

    def close(self) -> None:
        """Stop receiving and let go; returns within 3 s even where the transport hangs."""
        self._closing.set()
        self._queue.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)
            if self._thread.is_alive():
                logger.warning("%s did not let go within %g s; it is left to itself", self.name, JOIN_S)

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
