"""What a dashboard shows: of any live session on this machine, or of this one, with buttons."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from ptycho_bluesky._session._jobs import JobBoard, job_picture
from ptycho_bluesky._session._running import Running
from ptycho_bluesky.errors import InferenceError, PtychoError, SessionError
from ptycho_bluesky.experiment import Geometry, PtychographyMetadata
from ptycho_bluesky.experiment.patterns import pattern_again
from ptycho_bluesky.jupyter import ACTIONS, Action, FrameNews, Picture, Snapshot
from ptycho_bluesky.stream import LiveChanges, LiveStatus, LiveView, live_views

if TYPE_CHECKING:
    from ptycho_bluesky._session._session import Session

__all__ = ["SessionSource", "ViewSource"]

logger = logging.getLogger(__name__)

Positions = npt.NDArray[np.float64]

SIDE = 128
"""Pixels of a frame; the field of a far-field frame does not depend on it."""

BOARD = JobBoard()

NOWHERE: Positions = np.zeros((0, 2))


def half_field(geometry: Geometry | None) -> float:
    """Return from a position to where its frame's patch begins, metres (pixels without geometry)."""
    return SIDE / 2 if geometry is None else geometry.pixel_size_m(SIDE) * SIDE / 2


class ViewSource:
    """Shows the live session that began last on this machine, or stands waiting for one; no buttons.

    Implements :class:`ptycho_bluesky.jupyter.DashboardSource`, from shared memory and the folders of jobs alone:
    whoever looks on disturbs nobody.

    Parameters
    ----------
    name:
        Of the session; None for the newest, whichever that is at each moment.
    """

    def __init__(self, name: str | None = None) -> None:
        self._wanted = name
        self._view: LiveView | None = None
        self._planned: tuple[str, PtychographyMetadata | None, Positions] = ("", None, NOWHERE)

    def view(self) -> LiveView | None:
        """Return the reader of the live image; None where no session lives."""
        name = self._wanted or next(live_views(), None)
        if self._view is not None and (self._view.name != name or not self._there(self._view)):
            self._view.close()
            self._view = None
        if self._view is None and name is not None:
            try:
                self._view = LiveView(name)
            except InferenceError:  # it has just ended
                return None
        return self._view

    def _there(self, view: LiveView) -> bool:
        return self._wanted is None or view.name in live_views()

    def close(self) -> None:
        """Let go of the shared memory."""
        if self._view is not None:
            self._view.close()
            self._view = None

    # what a dashboard asks --------------------------------------------------------------------------------------------

    @property
    def actions(self) -> Collection[Action]:
        """None: it only shows."""
        return ()

    def snapshot(self) -> Snapshot:
        """Return the news."""
        view = self.view()
        if view is None:
            return Snapshot(title="waiting for a live session", jobs=BOARD.news())
        status = view.status()
        return Snapshot(**self._common(status), title=self.title())

    def title(self) -> str:
        """Return what is measured, for people."""
        return f"session {self._wanted}" if self._wanted else "the live session of this machine"

    def _common(self, status: LiveStatus) -> dict[str, Any]:
        expected, rate = status.frames_expected, status.frames_per_second
        left = (expected - status.frames) / rate if expected and rate and status.state == "running" else None
        return {
            "run_uid": status.run_uid,
            "live": "failed" if status.pid and status.state != "closed" and not status.alive else status.state,
            "message": status.message or status.model_message,
            "frames": status.frames,
            "expected": expected,
            "inferred": status.frames_inferred,
            "dropped": status.frames_dropped,
            "refused": status.frames_refused,
            "frames_per_second": rate if status.state == "running" else 0.0,
            "latency_ms_p50": status.latency_ms_p50,
            "latency_ms_p95": status.latency_ms_p95,
            "confidence": status.confidence,
            "trusted": status.trusted,
            "doubt": status.doubt,
            "model": status.model,
            "seconds_left": left,
            "path_points": len(self.path()),
            "jobs": BOARD.news(status.run_uid),
        }

    def image(self, since: int) -> LiveChanges | None:
        """Return what has changed in the live image since that publication; None before the first."""
        view = self.view()
        return None if view is None else view.changes(since)

    def frame(self) -> FrameNews | None:
        """Return the latest frame; here none."""
        return None

    def path(self) -> Positions:
        """Return the run's planned positions (N, 2), where they lie in the image."""
        return self._plan()[2]

    def _plan(self) -> tuple[str, PtychographyMetadata | None, Positions]:
        """Return run, metadata and path of the run that the edge process shows."""
        view = self.view()
        start = ((view.raw().get("resume") or {}).get("start") or {}) if view is not None else {}
        uid = str(start.get("uid", ""))
        if uid and uid != self._planned[0]:
            try:
                block = PtychographyMetadata.model_validate(start["ptychography"])
            except (ValidationError, KeyError):
                self._planned = uid, None, NOWHERE
            else:
                info = block.pattern
                pattern = None if info is None else pattern_again(info.name, info.parameters, info.num_points)
                path = NOWHERE if pattern is None else pattern.positions + half_field(block.geometry)
                self._planned = uid, block, path
        return self._planned

    def picture(self, job_id: str) -> Picture | None:
        """Return what a job has of the sample now: half way, or its result."""
        _, block, path = self._plan()
        if block is None or not len(path):
            return job_picture(job_id)
        shift = half_field(block.geometry)
        low, high = path.min(axis=0) - shift, path.max(axis=0) - shift
        middle = float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2
        pixel = None if block.geometry is None else block.geometry.pixel_size_m(self._frame_side())
        return job_picture(job_id, middle, pixel)

    def _frame_side(self) -> int:
        return SIDE

    def act(self, action: Action, job_id: str = "") -> str:
        """Refuse: it only shows."""
        raise SessionError(f"{action} is not possible from here; this page only shows")


class SessionSource(ViewSource):
    """Shows a session of this process, with the stage, the latest frame, and buttons that reach the RunEngine."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.live.name if session.live is not None else None)
        self._session = session
        self._mask: tuple[str, npt.NDArray[np.bool_] | None] = ("", None)

    def view(self) -> LiveView | None:
        """Return the session's own reader."""
        return self._session.view

    def close(self) -> None:
        """Leave the shared memory to the session."""

    @property
    def actions(self) -> Collection[Action]:
        """All of them."""
        return ACTIONS

    def title(self) -> str:
        """Return sample and plan."""
        start = self._session.news.start_document
        parts = (start.get("sample") or self._session.name, start.get("plan_name", ""))
        return ", ".join(str(part) for part in parts if part)

    def snapshot(self) -> Snapshot:
        """Return the news."""
        session, news, view = self._session, self._session.news, self.view()
        status = LiveStatus() if view is None else view.status()
        common = self._common(status)
        shown = status.run_uid == news.uid
        path, where = self.path(), news.measured[-1:]
        shift = half_field(self._geometry())
        common |= {
            "engine": str(session.RE.state),
            "blocking": self._handle() is None and session.RE.state == "running",
            "run_uid": news.uid or status.run_uid,
            "frames": news.frames if news.uid and not shown else status.frames,
            "expected": news.planned if news.uid else status.frames_expected,
            "seconds_left": news.seconds_left,
            "path_points": len(path),
            "stage": (float(where[0, 0]) + shift, float(where[0, 1]) + shift) if len(where) else None,
        }
        if view is None:
            common["live"] = ""
        return Snapshot(**common, title=self.title())

    def _geometry(self) -> Geometry | None:
        block = self._session.news.metadata
        return None if block is None else block.geometry

    def path(self) -> Positions:
        """Return the planned positions, else those so far."""
        news = self._session.news
        positions = news.measured if news.path is None else news.path
        return positions + half_field(self._geometry()) if len(positions) else NOWHERE

    def _plan(self) -> tuple[str, PtychographyMetadata | None, Positions]:
        return self._session.news.uid, self._session.news.metadata, self.path()

    def _frame_side(self) -> int:
        frame = self.frame()
        return SIDE if frame is None else min(frame.pixels.shape)

    def frame(self) -> FrameNews | None:
        """Return the latest frame that came in an event; None where frames lie in files."""
        news = self._session.news
        block, data = news.metadata, news.last_event
        if block is None or block.frames_key not in data:
            return None
        pixels = np.asarray(data[block.frames_key])
        pixels = pixels[0] if pixels.ndim == 3 else pixels
        if pixels.ndim != 2:
            return None
        return FrameNews(pixels, self._mask_of(block.mask_uri, pixels.shape), news.frames - 1)

    def _mask_of(self, uri: str | None, shape: tuple[int, ...]) -> npt.NDArray[np.bool_] | None:
        if uri is None:
            return None
        if self._mask[0] != uri:
            try:
                mask = np.load(Path(unquote(urlparse(uri).path)), allow_pickle=False).astype(bool)
            except (OSError, ValueError):  # whoever reconstructs says what is wrong with it
                mask = None
            self._mask = uri, mask
        mask = self._mask[1]
        return mask if mask is not None and mask.shape == shape else None

    # what its buttons do ----------------------------------------------------------------------------------------------

    def _handle(self) -> Running | None:
        """Return the handle of a plan that is under way in a thread of its own."""
        current = self._session.current
        return None if current is None or current.ended else current

    def act(self, action: Action, job_id: str = "") -> str:
        """Do as a button says.

        Raises
        ------
        SessionError
            When the state of the plan does not allow it.
        DispatchError
            When there is no such job, or it has ended.
        """
        if action == "dispatch":
            return self._session.send_off()
        if action == "cancel_job":
            return _cancel(job_id)
        state = str(self._session.RE.state)
        allowed = {"pause": ("running",), "resume": ("paused",)}.get(action, ("running", "paused", "pausing"))
        if state not in allowed:
            raise SessionError(f"the RunEngine is {state}; {action.replace('_', ' ')} needs it {' or '.join(allowed)}")
        handle = self._handle() or Running.foreground(self._session)
        if action == "pause":
            handle.pause(defer=True)
            return "pauses at the next checkpoint"
        todo: dict[str, tuple[Callable[[], Any], str]] = {
            "resume": (handle.resume, "goes on"),
            "abort": (handle.abort, "aborts"),
            "stop_and_keep": (handle.stop, "ends here; what was measured is kept"),
        }
        call, text = todo[action]
        _in_background(call, action)
        return text


def _cancel(job_id: str) -> str:
    from ptycho_bluesky.dispatch import FINAL, cancel, status

    now = status(job_id)
    if now.state in FINAL:
        raise SessionError(f"job {now.job_id} has ended ({now.state}); there is nothing to cancel")
    _in_background(lambda: cancel(now.job_id), "cancel")
    return f"job {now.job_id} is being cancelled"


def _in_background(call: Callable[[], Any], name: str) -> None:
    """Do what may take seconds, such as devices coming to rest; what fails is logged."""

    def work() -> None:
        try:
            call()
        except PtychoError as error:
            logger.warning("%s: %s", name, error)

    threading.Thread(target=work, name=f"session-{name}", daemon=True).start()
