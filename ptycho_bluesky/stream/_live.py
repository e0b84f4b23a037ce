"""What the edge process shows: its status and the growing image, in shared memory, for any number of viewers."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream._latest import Latest
from ptycho_bluesky.stream._segment import Segment, find_segments, segment_path

__all__ = ["LiveBoard", "LiveImage", "LiveStatus", "LiveView", "live_views"]

SUFFIX = "-live"
STATUS_BYTES = 1 << 18
IMAGE_HEAD_BYTES = 4096

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
    model: str = ""
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


@dataclass(frozen=True)
class LiveImage:
    """The growing image. Every array is (Y, X) float32, NaN where nothing has been measured."""

    phase: npt.NDArray[np.float32]
    """Radians; a constant is free."""
    amplitude: npt.NDArray[np.float32]
    """Transmission; from a network that gives phase alone: how well overlapping patches agree, 1 = fully."""
    coverage: npt.NDArray[np.float32]
    """Sum of the patches' weights, 1 = one patch at its full weight."""
    residual: npt.NDArray[np.float32]
    """Misfit of the patches that made each pixel (0 perfect, 1 says nothing); NaN where the probe is not known."""
    origin: tuple[float, float]
    """Position (row, column) whose frame's patch begins at pixel (0, 0), in metres (object pixels without geometry)."""
    pixel_size: float
    """Side of a pixel in the unit of ``origin``."""
    run_uid: str
    frames: int
    """Frames in it."""
    number: int
    """Grows with each publication: unchanged means nothing new."""


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
        self._image: tuple[Segment, Latest] | None = None

    def raw(self) -> dict[str, Any]:
        """Return the status as published, with what a successor of the edge process needs."""
        return self._board.read()

    def status(self) -> LiveStatus:
        """Return the current status; about 50 us."""
        value = self.raw()
        return LiveStatus(**{key: value[key] for key in _STATUS_FIELDS if key in value})

    def image(self) -> LiveImage | None:
        """Return a copy of the current image; None before the first."""
        wanted = self.raw().get("image_segment", "")
        if not wanted:
            return None
        if self._image is None or self._image[0].name != wanted:
            self._let_go()
            try:
                segment = Segment.attach(wanted)
            except InferenceError:  # replaced by a larger one at this very moment: the next call finds that
                return None
            self._image = segment, image_slots(segment)
        value = self._image[1].read()
        return None if value is None else unpack_image(value, self._image[1].published)

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


def image_bytes(pixels: int) -> int:
    """Return the size of an image slot for `pixels` pixels."""
    return IMAGE_HEAD_BYTES + pixels * 4 * 4


def image_slots(segment: Segment) -> Latest:
    """Return the published image of a canvas segment; its place is in the segment's first two words."""
    words = segment.buffer[:16].cast("Q")
    start, capacity = words[0], words[1]
    words.release()
    return Latest(segment.buffer[start : start + Latest.size(capacity)], capacity)


def pack_head(**head: Any) -> bytes:
    """Return the head of an image slot."""
    return json.dumps(head).encode().ljust(IMAGE_HEAD_BYTES)


def unpack_image(value: bytes, number: int) -> LiveImage:
    """Return the image of a slot."""
    head = json.loads(value[:IMAGE_HEAD_BYTES])
    rows, columns = head["shape"]
    maps = np.frombuffer(value, np.float32, 4 * rows * columns, IMAGE_HEAD_BYTES).reshape(4, rows, columns)
    phase, amplitude, coverage, residual = maps
    place = (float(head["origin"][0]), float(head["origin"][1]))
    side, uid, frames = float(head["pixel_size"]), str(head["run_uid"]), int(head["frames"])
    return LiveImage(phase, amplitude, coverage, residual, place, side, uid, frames, number)


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
