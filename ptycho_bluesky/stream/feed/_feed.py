"""SourceFeed: frames of a detector's stream, with their positions, to a live session; one run for each series."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.stream._session import LiveSession
from ptycho_bluesky.stream._side_notes import SideNotes
from ptycho_bluesky.stream.feed._positions import PositionTable
from ptycho_bluesky.stream.sources import PositionJoin, Source, SourceCounts, SourceEnded, SourceFrame

__all__ = ["SourceFeed"]

logger = logging.getLogger(__name__)

READ_S = 0.2
ROOM_S = 0.002
NOTES_S = 0.5


@dataclass
class _Run:
    uid: str
    series: int
    shape: tuple[int, ...]
    join: PositionJoin
    before: dict[str, Any]
    """Counts of the source when it began."""
    heard: float


class SourceFeed:
    """Reads a source and hands its frames over, as the callback hands over a RunEngine's.

    A run begins with the first frame of a series and ends when the source says so, begins another series, or is silent.
    Where the edge process is slower than the source, this waits for room in the ring, and the source's own
    back-pressure policy decides what happens.

    Parameters
    ----------
    source:
        Of frames.
    session:
        Which shows them.
    metadata:
        Of each run: unit and signs of positions, geometry, orientation, mask, probe.
    positions:
        Of each series.
    silence_s:
        A run is ended when nothing came for so long, seconds.
    """

    def __init__(
        self,
        source: Source,
        session: LiveSession,
        metadata: PtychographyMetadata,
        positions: PositionTable,
        silence_s: float = 30.0,
    ) -> None:
        self._source, self._session, self._silence_s = source, session, silence_s
        self._metadata, self._positions = metadata, positions
        self._notes, self._noted = SideNotes(session.name, "feed"), 0.0
        self._run: _Run | None = None
        self.uids: list[str] = []
        """Of the runs that have ended, in order."""

    def serve(self, should_stop: Callable[[], bool]) -> None:
        """Feed until told to stop.

        Raises
        ------
        SourceError
            When the source broke off in a way that waiting does not mend, or the edge process is not started again.
        """
        try:
            while not should_stop():
                self.step(READ_S)
                if self._session.gave_up:
                    raise SourceError(f"the edge process is not started again: {self._session.status().message}")
        finally:
            self._end("stopped")
            self._notes.close()

    def step(self, timeout_s: float) -> None:
        """Take what the source has, waiting for `timeout_s` at most."""
        try:
            frames = self._source.read(timeout_s)
        except SourceEnded as end:
            logger.info("%s", end)
            self._end("success")
            return
        for frame in frames:
            self._take(frame)
        run = self._run
        if run is not None and not frames:
            self._hand_over(run, [])
            if time.monotonic() - run.heard > self._silence_s:
                logger.warning("%s has been silent for %g s; its run ends", self._source.name, self._silence_s)
                self._end("silent")
        self._note()

    def _take(self, frame: SourceFrame) -> None:
        if self._run is not None and frame.series != self._run.series:
            self._end("restarted")
        if self._run is None:
            self._begin(frame)
        if self._run is not None:
            self._run.heard = time.monotonic()
            self._hand_over(self._run, [frame])

    def _begin(self, frame: SourceFrame) -> None:
        uid, shape = str(uuid.uuid4()), frame.pixels.shape
        self._run = _Run(uid, frame.series, shape, self._positions.join(), self._counts(), time.monotonic())
        expected = len(self._positions.yx) if not self._positions.by_time else 0
        block = self._metadata.model_dump(mode="json")
        self._session.begin(uid, block, expected=expected or None, extents=self._positions.extents)
        self._session.send({"type": "shape", "shape": list(shape)})

    def _hand_over(self, run: _Run, frames: list[SourceFrame]) -> None:
        for frame, y, x in run.join.add(frames):
            if 2 * frame.pixels.nbytes > self._session.ring.capacity:
                self._refuse("larger than the ring", 1, frame.index)
                continue
            while not self._session.has_room(frame.pixels.nbytes) and not self._session.gave_up:
                time.sleep(ROOM_S)
            self._session.put(frame.pixels, frame.index, y, x, frame.arrived)

    def _end(self, status: str) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        self._hand_over(run, [])
        now = self._counts()
        for reason, count in now["damaged"].items():
            self._refuse(f"damaged: {reason}", count - run.before["damaged"].get(reason, 0))
        self._refuse("no position", run.join.unmatched + run.join.waiting)
        lost = sum(now[name] - run.before[name] for name in ("dropped", "discarded"))
        if lost > 0:
            self._session.send({"type": "lost", "count": lost})
        self._session.end(status)
        self.uids.append(run.uid)
        self._note(now=True)

    def _refuse(self, reason: str, count: int, index: int = 0) -> None:
        if count > 0:
            self._session.send({"type": "refused", "reason": reason, "index": index, "count": count})

    def _counts(self) -> dict[str, Any]:
        counts: SourceCounts = self._source.counts
        return counts.to_dict()

    def _note(self, now: bool = False) -> None:
        """Say in the live view how the source fares."""
        if not now and time.monotonic() < self._noted + NOTES_S:
            return
        self._noted = time.monotonic()
        source = {"name": self._source.name, "connected": self._source.connected, **self._counts()}
        source["fault"] = getattr(self._source, "fault", "")
        if (run := self._run) is not None:
            source |= {"waiting": run.join.waiting, "unmatched": run.join.unmatched, "clock": run.join.clock.report()}
        self._notes.write(source=source)
