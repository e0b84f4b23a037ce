"""How many frames the ptychographic runs that are going on have so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from event_model import DocumentRouter

__all__ = ["CountedRun", "CountedRuns"]


class CountedRun:
    """A run that is going on.

    Parameters
    ----------
    uid:
        Of the run.
    block:
        Its ``ptychography`` block.
    """

    def __init__(self, uid: str, block: Mapping[str, Any]) -> None:
        self.uid, self.block = uid, block
        self.frames_key = str(block["frames_key"])
        self.descriptors: set[str] = set()
        self.resources: set[str] = set()
        self.frames = 0


class CountedRuns(DocumentRouter):  # type: ignore[misc]
    """Counts the frames of each run with a ``ptychography`` block, however they come; others pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, CountedRun] = {}

    def counted(self, run: CountedRun) -> None:
        """Take note that frames of a run have come."""

    def start(self, doc: dict[str, Any]) -> None:
        """Remember a run if it is a ptychographic one."""
        block = doc.get("ptychography")
        if isinstance(block, Mapping) and "frames_key" in block:
            self.runs[doc["uid"]] = CountedRun(doc["uid"], block)

    def descriptor(self, doc: dict[str, Any]) -> None:
        """Remember the stream that holds the frames."""
        run = self.runs.get(doc["run_start"])
        if run is not None and run.frames_key in doc["data_keys"]:
            run.descriptors.add(doc["uid"])

    def event(self, doc: dict[str, Any]) -> None:
        """Count a frame that comes in, or with, an event."""
        self._count(doc["descriptor"], 1)

    def event_page(self, doc: dict[str, Any]) -> None:
        """Count frames that come in, or with, a page of events."""
        self._count(doc["descriptor"], len(doc["seq_num"]))

    def stream_resource(self, doc: dict[str, Any]) -> None:
        """Remember the files that hold the frames."""
        for run in self.runs.values():
            if doc.get("data_key") == run.frames_key and doc.get("run_start") in (None, *self.runs):
                run.resources.add(doc["uid"])

    def stream_datum(self, doc: dict[str, Any]) -> None:
        """Count frames that come in files."""
        self._count(doc["descriptor"], doc["indices"]["stop"] - doc["indices"]["start"], doc["stream_resource"])

    def _count(self, descriptor: str, frames: int, resource: str | None = None) -> None:
        for run in self.runs.values():
            if descriptor in run.descriptors and (resource is None or resource in run.resources):
                run.frames += frames
                self.counted(run)
