"""What the edge process shows: its status and the growing image, in shared memory, for any number of viewers."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import psutil

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream._latest import Latest
from ptycho_bluesky.stream._live_image import ImageSlots, LiveChanges, LiveImage
from ptycho_bluesky.stream._segment import Segment, find_segments, segment_path
from ptycho_bluesky.stream._side_notes import read_side_notes

__all__ = ["LiveBoard", "LiveStatus", "LiveView", "live_views"]

SUFFIX = "-live"
STATUS_BYTES = 1 << 18

State = Literal["starting", "idle", "preparing", "running", "finishing", "closed", "failed"]


@dataclass(frozen=True)
class LiveStatus:
    """How the edge process fares. Counts are those of the run that it shows."""

    state: State = "starting"
    """starting (loading the network), idle, preparing (a run), running, finishing, closed; failed: see ``message``."""
    message: str = ""
    """The latest trouble in plain words; empty where there is none."""
    run_uid: str = ""
    frames: int = 0
    """Frames that arrived, of whatever fate."""
    frames_expected: int | None = None
    """As planned; None where it is not known."""
    frames_inferred: int = 0
    frames_refused: int = 0
    """Frames that the checks before the network turned away."""
    frames_dropped: int = 0
    """Frames that were lost because the ring was full, or with an edge process that died."""
    refused: dict[str, int] = field(default_factory=dict)
    """Why frames were refused, and how many for each reason."""
    first_refused: dict[str, int] = field(default_factory=dict)
    """Number of the first frame refused for each reason."""
    frames_per_second: float = 0.0
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    """From the hand-over in the console to the image, of the last 1,000 frames."""
    residual: float | None = None
    """Median misfit of the last patches pushed through the known probe: 0 is perfect, 1 says nothing."""
    confidence: float | None = None
    """Median confidence of the last patches, 0 to 1; None where it cannot be told, as the probe is not known."""
    trusted: bool | None = None
    """Whether the image may be believed; None while too few frames have been seen to tell."""
    doubt: str = ""
    """Why it may not, in plain words."""
    model: str = ""
    """Name or path of the network in service."""
    model_message: str = ""
    """What became of the last change of the network, where it was not simply made."""
    source: dict[str, Any] = field(default_factory=dict)
    """Of a standing edge process: the source of frames, whether it is there, and its counts."""
    outputs: dict[str, str] = field(default_factory=dict)
    """Where else the image goes, and how that fares: "ok", or what is wrong."""
    restarts: int = 0
    pid: int = 0
    process_started: float = 0.0
    beat: float = 0.0
    """Seconds since 1970 of the last sign of life."""
    image_segment: str = ""
    mosaic: str = ""
    """File of the final mosaic, once it is written."""

    @property
    def alive(self) -> bool:
        """Whether the edge process exists at this moment (on this machine)."""
        try:
            process = psutil.Process(self.pid)
            started: float = process.create_time()
            return abs(started - self.process_started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, ValueError):
            return False


class LiveBoard:
    """The writer's side of a :class:`LiveView`; the edge process has one."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._latest = Latest(segment.buffer, STATUS_BYTES)

    @classmethod
    def create(cls, name: str) -> LiveBoard:
        """Make the board of the session `name`."""
        return cls(Segment.create(name + SUFFIX, Latest.size(STATUS_BYTES)))

    @classmethod
    def attach(cls, name: str) -> LiveBoard:
        """Open the board of the session `name`, to go on where a predecessor stopped."""
        return cls(Segment.attach(name + SUFFIX))

    def write(self, value: dict[str, Any]) -> None:
        """Publish a status: the fields of :class:`LiveStatus`, and ``resume`` for a successor."""
        self._latest.write(json.dumps(value).encode())

    def read(self) -> dict[str, Any]:
        """Return what was published last; empty before the first."""
        value = self._latest.read()
        return json.loads(value) if value else {}

    def close(self) -> None:
        """Let go of the memory."""
        self._latest.release()
        self.segment.close()


class LiveView:
    """Reads status and image of a session at any rate, from any process, without disturbing it.

    Parameters
    ----------
    name:
        The session's name, as :attr:`LiveInference.name` or :func:`live_views` give it.

    Raises
    ------
    InferenceError
        When there is no such session.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._board = LiveBoard.attach(name)
        self._image: tuple[Segment, ImageSlots] | None = None

    def raw(self) -> dict[str, Any]:
        """Return the status as published, with what a successor of the edge process needs."""
        return self._board.read()

    def status(self) -> LiveStatus:
        """Return the current status; about 50 us."""
        value = self.raw() | read_side_notes(self.name)
        return LiveStatus(**{key: value[key] for key in _STATUS_FIELDS if key in value})

    def image(self) -> LiveImage | None:
        """Return a copy of the current image, its arrays (Y, X); None before the first."""
        slots = self._slots()
        return None if slots is None else slots.image()

    def changes(self, since: int = 0) -> LiveChanges | None:
        """Return what has changed in the image since the publication `since`; None before the first image.

        A viewer that asks with the ``number`` of its last answer copies only the tiles that are new to it.
        """
        slots = self._slots()
        return None if slots is None else slots.changes(since)

    def _slots(self) -> ImageSlots | None:
        wanted = self.raw().get("image_segment", "")
        if not wanted:
            return None
        if self._image is None or self._image[0].name != wanted:
            self._let_go()
            try:
                segment = Segment.attach(wanted)
            except InferenceError:  # replaced by a larger one at this very moment: the next call finds that
                return None
            self._image = segment, ImageSlots(segment)
        return self._image[1]

    def wait(self, run_uid: str, timeout_s: float) -> LiveStatus:
        """Return the status as soon as the run `run_uid` is done, or the latest one after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while True:
            now = self.status()
            if (now.run_uid == run_uid and now.mosaic) or time.monotonic() > end:
                return now
            time.sleep(0.02)

    def _let_go(self) -> None:
        if self._image is not None:
            self._image[1].release()
            self._image[0].close()
            self._image = None

    def close(self) -> None:
        """Let go of the memory."""
        self._let_go()
        self._board.close()

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_STATUS_FIELDS = tuple(f.name for f in fields(LiveStatus))


def live_views() -> Iterator[str]:
    """Yield the names of the sessions on this machine, the newest first."""
    for name in find_segments(SUFFIX):
        if segment_path(name) is not None:
            yield name.removesuffix(SUFFIX)


def unlink_session(name: str) -> None:
    """Remove every segment of the session `name`; processes that have them open keep them until they close."""
    for found in list(find_segments()):
        if found.startswith(name + "-") and (path := segment_path(found)) is not None:
            path.unlink(missing_ok=True)


def own_process() -> dict[str, Any]:
    """Return the fields of a status that identify this process."""
    me = os.getpid()
    started = 0.0
    with contextlib.suppress(psutil.Error):
        started = float(psutil.Process(me).create_time())
    return {"pid": me, "process_started": started}
