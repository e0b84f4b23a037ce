"""What there is to say of the run that is being measured: for a console, a dashboard, a figure."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from event_model import DocumentRouter

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import POSITION_UNITS_M, PtychographyMetadata
from ptycho_bluesky.experiment.patterns import pattern_again

__all__ = ["RunNews"]

Positions = npt.NDArray[np.float64]


class RunNews(DocumentRouter):  # type: ignore[misc]
    """Follows the documents of the run that began last; other threads may read it at any time.

    Frames count whether they come in events or in files. Positions are those of the sample, (row, column) in metres, or
    in object pixels where the run counts in them: units and signs of the ``ptychography`` block are applied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.start_document: dict[str, Any] = {}
        self.metadata: PtychographyMetadata | None = None
        """The run's block; None for a run without one."""
        self.began = self.ended = 0.0
        """Seconds since 1970; `ended` is 0 while the run lasts."""
        self.exit_status = ""
        """``"success"``, ``"abort"`` or ``"fail"``; empty while the run lasts."""
        self.reason = ""
        self.planned: int | None = None
        """Frames to come in all; None where nobody said."""
        self.path: Positions | None = None
        """(N, 2) planned positions; None where the run does not tell them."""
        self.frames = 0
        self.last_event: dict[str, Any] = {}
        """``data`` of the latest event."""
        self._measured: list[tuple[float, float]] = []
        self._descriptors: set[str] = set()
        self._resources: set[str] = set()

    @property
    def uid(self) -> str:
        """Of the run; empty before the first."""
        return str(self.start_document.get("uid", ""))

    @property
    def running(self) -> bool:
        """Whether the run has begun and not ended."""
        return bool(self.uid) and not self.exit_status

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has taken so far, or took."""
        return (self.ended or time.time()) - self.began if self.uid else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last frame at the rate so far; None where that cannot be told."""
        if not self.running or not self.planned or not self.frames:
            return None
        return max(0.0, (self.planned - self.frames) * self.elapsed_s / self.frames)

    @property
    def measured(self) -> Positions:
        """(n, 2) positions of the frames so far: as read, or as planned where they lie in files."""
        if self._measured or self.path is None:
            return np.array(self._measured, np.float64).reshape(-1, 2)
        return self.path[: self.frames]

    def start(self, doc: dict[str, Any]) -> None:
        """Begin anew with a run."""
        RunNews.__init__(self)
        self.start_document, self.began = doc, doc["time"]
        self.planned = doc.get("num_points")
        if "ptychography" in doc:
            try:
                self.metadata = PtychographyMetadata.from_start(doc)
            except DatasetError:
                return  # whoever needs the block says what is wrong with it
            info = self.metadata.pattern
            if info is not None:
                self.planned = self.planned or info.num_points
                pattern = pattern_again(info.name, info.parameters, info.num_points)
                self.path = None if pattern is None else pattern.positions

    def descriptor(self, doc: dict[str, Any]) -> None:
        """Remember the stream that holds the frames; of other plans' runs the primary one."""
        if doc["run_start"] != self.uid:
            return
        key = self.metadata.frames_key if self.metadata is not None else None
        if key in doc["data_keys"] or (key is None and doc.get("name") == "primary"):
            self._descriptors.add(doc["uid"])

    def event(self, doc: dict[str, Any]) -> None:
        """Count a frame, and note where it was taken."""
        if doc["descriptor"] not in self._descriptors:
            return
        data, block = doc["data"], self.metadata
        self.last_event = data
        if block is None or block.frames_key in data:
            self.frames += 1
        if block is not None and all(key in data for key in block.position_keys):
            unit = POSITION_UNITS_M.get(block.position_unit, 1.0)
            values = zip(block.position_keys, block.axis_signs, block.position_offset_m, strict=True)
            y, x = (float(np.ravel(data[key])[0]) * sign * unit + offset for key, sign, offset in values)
            self._measured.append((y, x))

    def event_page(self, doc: dict[str, Any]) -> None:
        """Take each event of a page."""
        for k in range(len(doc["seq_num"])):
            data = {key: values[k] for key, values in doc["data"].items()}
            self.event({"descriptor": doc["descriptor"], "data": data})

    def stream_resource(self, doc: dict[str, Any]) -> None:
        """Remember the files that hold the frames."""
        if self.metadata is not None and doc.get("data_key") == self.metadata.frames_key:
            self._resources.add(doc["uid"])

    def stream_datum(self, doc: dict[str, Any]) -> None:
        """Count frames in files."""
        if doc["stream_resource"] in self._resources and doc["descriptor"] in self._descriptors:
            self.frames += doc["indices"]["stop"] - doc["indices"]["start"]

    def stop(self, doc: dict[str, Any]) -> None:
        """End the run."""
        if doc["run_start"] == self.uid:
            self.ended, self.reason = doc["time"], doc.get("reason", "")
            self.exit_status = doc["exit_status"]
