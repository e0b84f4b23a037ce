"""One stream of messages to the browsers: news, and the image as fast as the slowest of them takes it.

A message is a header (JSON) and buffers. Browsers acknowledge each when it is painted; no more than three are on their
way. What changes meanwhile is not queued: the next message has the tiles that are new since the last one, as they are
then. So a slow line gets fewer and later images, never old ones.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.jupyter._encode import LAYERS, PATH_POINTS, encode_frame, encode_picture, encode_tiles
from ptycho_bluesky.jupyter._source import ACTIONS, DashboardSource, Snapshot
from ptycho_bluesky.stream import LiveChanges, LiveTile

__all__ = ["Feed"]

logger = logging.getLogger(__name__)

WINDOW = 3
NEWS_S, FRAME_S, PATH_S, PICTURE_S = 0.2, 0.25, 1.0, 1.0
BEAT_S = 1.0
"""News are sent as often as this also when there are none, so that a browser can tell silence from peace."""
GONE_S = 5.0
"""A browser that has not acknowledged anything for so long is gone."""
DEAF_S = 0.5
"""While the kernel cannot hear acknowledgements, a message goes out every so often all the same."""
MESSAGE_S = 0.1
"""A message is made so large that the line needs about as long for it."""
SMALLEST, LARGEST = 1 << 16, 1 << 22
WHOLE_S = 5.0
"""As often, everything goes out again meanwhile: a page may have opened whose greeting was not heard."""
SLOW = 2e6
"""Bytes a second below which buffers are compressed."""


@dataclass
class _Viewer:
    acknowledged: int
    heard: float
    layers: frozenset[str] = frozenset({"phase", "amplitude"})
    job: str = ""


@dataclass
class _Sent:
    """The image as the browsers have it."""

    since: int = 0
    place: tuple[Any, ...] = ()
    pending: dict[tuple[int, int], LiveTile] = field(default_factory=dict)
    """Tiles that did not fit into the last message."""


class Feed:
    """Looks at a source and sends what is new; the owner calls :meth:`tick` from a thread, :meth:`hear` from any.

    Parameters
    ----------
    source:
        What is shown and acted upon.
    send:
        Takes a header and its buffers, and returns at once; called from both threads, one call at a time.
    hearing:
        Tells whether acknowledgements can reach :meth:`hear` now. A kernel that runs a cell may be deaf.
    clock:
        Returns seconds.
    """

    def __init__(
        self,
        source: DashboardSource,
        send: Callable[[dict[str, Any], Sequence[Any]], None],
        *,
        hearing: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source, self._send, self._hearing, self._clock = source, send, hearing, clock
        self._lock = threading.RLock()
        self._viewers: dict[str, _Viewer] = {}
        self._number = 0
        self._on_the_way: dict[int, tuple[float, int]] = {}
        self._bytes_per_second = 50e6
        self._news: Snapshot | None = None
        self._trouble = ""
        self._looked = 0.0
        self._reset()

    def _reset(self) -> None:
        """Forget what the browsers have: all of it is sent again."""
        self._image, self._begun = _Sent(), self._clock()
        self._frame: tuple[str, int] = ("", -1)
        self._path: tuple[str, int] = ("", 0)
        self._picture: tuple[str, int] = ("", 0)
        self._last = dict.fromkeys(("news", "frame", "path", "picture", "any"), -math.inf)

    # what browsers say ------------------------------------------------------------------------------------------------

    @property
    def viewers(self) -> int:
        """How many browsers look on."""
        return len(self._viewers)

    @property
    def news(self) -> Snapshot | None:
        """The news as last sent."""
        return self._news

    def expect_viewer(self) -> None:
        """Send to a browser that is about to look on, even where its greeting cannot be heard yet."""
        with self._lock:
            self._viewers.setdefault("", _Viewer(self._number, self._clock()))

    def hear(self, message: dict[str, Any]) -> None:
        """Take a message of a browser; those that make no sense are passed over."""
        kind, name = message.get("t"), str(message.get("viewer", ""))[:40]
        if kind == "act":
            self._act(message)
            return
        with self._lock:
            if kind == "hello":
                self._viewers.pop("", None)
                self._viewers[name] = _Viewer(self._number, self._clock())
                self._reset()
            elif kind == "bye":
                self._viewers.pop(name, None)
            elif (viewer := self._viewers.get(name)) is None:
                return
            elif kind == "ack":
                self._acknowledge(viewer, int(message.get("n", 0)))
            elif kind == "show":
                layers = frozenset(message.get("layers", ())) & frozenset(LAYERS)
                if layers - viewer.layers:
                    self._image = _Sent()
                viewer.layers, viewer.job, self._picture = layers, str(message.get("job", "")), ("", 0)

    def _acknowledge(self, viewer: _Viewer, number: int) -> None:
        now = self._clock()
        viewer.acknowledged, viewer.heard = max(viewer.acknowledged, number), now
        sent, size = self._on_the_way.get(number, (now, 0))
        if size and now > sent:
            self._bytes_per_second += 0.3 * (size / (now - sent) - self._bytes_per_second)
        oldest = min(v.acknowledged for v in self._viewers.values())
        self._on_the_way = {n: what for n, what in self._on_the_way.items() if n > oldest}

    def _act(self, message: dict[str, Any]) -> None:
        reply = {"t": "reply", "id": message.get("id"), "ok": False}
        action = message.get("action")
        if action not in ACTIONS or action not in self.source.actions:
            self._post({**reply, "text": f"{action!r} is not allowed here"})
            return
        try:
            self._post({**reply, "ok": True, "text": self.source.act(action, str(message.get("job", "")))})
        except PtychoError as error:
            self._post({**reply, "text": str(error)})
        except Exception as error:
            logger.exception("the button %r stumbled", action)
            self._post({**reply, "text": f"{action} failed: {error!r}"})

    # what they are sent -----------------------------------------------------------------------------------------------

    def _post(self, header: dict[str, Any], buffers: Sequence[Any] = (), size: int = 0) -> None:
        """Send a message; one whose `size`, bytes, is given tells how fast the line is."""
        with self._lock:
            self._number += 1
            self._on_the_way[self._number] = self._clock(), size
            self._last["any"] = self._clock()
            heard = max((v.acknowledged for v in self._viewers.values()), default=0)
            self._send({**header, "n": self._number, "heard": heard, "time": self._looked}, buffers)

    def tick(self) -> bool:
        """Send what is new, if the browsers can take it; returns whether anything was sent."""
        with self._lock:
            now = self._clock()
            if not self._may_send(now):
                return False
            before, self._looked = self._number, time.time()
            try:
                self._tick(now)
            except Exception as error:
                if repr(error) != self._trouble:
                    self._trouble = repr(error)
                    logger.exception("the dashboard's source stumbled")
            return self._number > before

    def _may_send(self, now: float) -> bool:
        if self._viewers and now - max(v.heard for v in self._viewers.values()) > DEAF_S and not self._hearing():
            if now - self._begun > WHOLE_S:
                self._reset()
            return now - self._last["any"] > DEAF_S
        for name, viewer in list(self._viewers.items()):
            if now - viewer.heard > GONE_S:
                del self._viewers[name]
        return bool(self._viewers) and self._number - min(v.acknowledged for v in self._viewers.values()) < WINDOW

    def _due(self, what: str, now: float, interval: float) -> bool:
        if now - self._last[what] < interval:
            return False
        self._last[what] = now
        return True

    def _tick(self, now: float) -> None:
        """Send the image last: the other messages are small, and all of them count."""
        if self._due("news", now, NEWS_S):
            news = self.source.snapshot()
            if news != self._news or now - self._last["any"] > BEAT_S or self._image.place == ():
                self._news = news
                self._post({"t": "news", **_plain(news), "actions": list(self.source.actions)})
        if self._news is not None and self._due("path", now, PATH_S):
            self._send_path(self._news)
        if self._due("frame", now, FRAME_S):
            self._send_frame()
        if self._news is not None and self._due("picture", now, PICTURE_S):
            self._send_picture(self._news)
        self._send_image()

    def _send_path(self, news: Snapshot) -> None:
        if (news.run_uid, news.path_points) == self._path:
            return
        self._path = news.run_uid, news.path_points
        path = self.source.path()
        step = max(1, -(-len(path) // PATH_POINTS))
        thin = np.ascontiguousarray(path[::step], "<f4")
        self._post({"t": "path", "run": news.run_uid, "step": step}, [thin])

    def _send_frame(self) -> None:
        frame = self.source.frame()
        run = self._news.run_uid if self._news is not None else ""
        if frame is None or (run, frame.number) == self._frame:
            return
        self._frame = run, frame.number
        shown, top = encode_frame(frame.pixels, frame.mask)
        masked = 0 if frame.mask is None else int(frame.mask.sum())
        header = {"t": "frame", "number": frame.number, "shape": shown.shape, "size": frame.pixels.shape}
        self._post({**header, "top": top, "masked": masked}, [shown])

    def _send_picture(self, news: Snapshot) -> None:
        wanted = next((v.job for v in self._viewers.values() if v.job), "")
        job = next((j for j in news.jobs if j.job_id == wanted), None)
        if job is None or job.picture == 0 or (job.job_id, job.picture) == self._picture:
            return
        picture = self.source.picture(job.job_id)
        if picture is None:
            return
        self._picture = job.job_id, job.picture
        phase, step = encode_picture("phase", picture.phase)
        amplitude, _ = encode_picture("amplitude", picture.amplitude)
        place = {"shape": phase.shape, "origin": picture.origin, "pixel": picture.pixel_size * step}
        self._post({"t": "picture", "job": job.job_id, "final": job.final, **place}, [phase, amplitude])

    def _send_image(self) -> None:
        changes = self.source.image(self._image.since)
        if changes is None:
            return
        place = changes.run_uid, changes.shape, changes.origin, changes.pixel_size
        if place != self._image.place:
            if self._image.since:  # what came are changes of another image
                self._image = _Sent()
                changes = self.source.image(0) or changes
            self._image.place = place = changes.run_uid, changes.shape, changes.origin, changes.pixel_size
            header = {"shape": changes.shape, "origin": changes.origin, "pixel": changes.pixel_size}
            self._post({"t": "canvas", "run": changes.run_uid, **header, "layers": LAYERS})
        self._image.since = changes.number
        self._image.pending |= {(t.rows.start, t.columns.start): t for t in changes.tiles}
        if self._image.pending:
            self._send_tiles(changes)

    def _send_tiles(self, changes: LiveChanges) -> None:
        layers = [name for name in LAYERS if any(name in v.layers for v in self._viewers.values())]
        if not layers:
            return
        room = min(max(self._bytes_per_second * MESSAGE_S, SMALLEST), LARGEST)
        each = sum(LAYERS[name][2] // 8 for name in layers) * next(iter(self._image.pending.values())).phase.size
        keys = list(self._image.pending)[: max(1, int(room / each))]
        places, pixels = encode_tiles([self._image.pending.pop(key) for key in keys], layers)
        slow = self._bytes_per_second < SLOW
        buffers: list[Any] = [zlib.compress(p.tobytes(), 1) for p in pixels] if slow else list(pixels)
        header = {"t": "tiles", "layers": layers, "places": places, "frames": changes.frames, "deflate": slow}
        size = sum(memoryview(b).nbytes for b in buffers)
        self._post(header, buffers, size if size >= SMALLEST or self._image.pending else 0)  # others: nothing to learn


def _plain(news: Snapshot) -> dict[str, Any]:
    """Return the news as JSON knows it: no NaN, no infinity."""
    return {k: _finite(v) for k, v in vars(news).items()} | {
        "jobs": [{k: _finite(v) for k, v in vars(job).items()} for job in news.jobs]
    }


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
