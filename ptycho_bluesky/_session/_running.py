"""A plan on its way in a thread of its own: the prompt, and the buttons, stay free."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ptycho_bluesky.errors import SessionError

if TYPE_CHECKING:
    from ptycho_bluesky._session._session import Session

__all__ = ["Running"]

logger = logging.getLogger(__name__)

FINAL = ("done", "stopped", "aborted", "failed")
PAUSE_S = 30.0
"""Longest time until a plan rests; the move or exposure that is under way ends first."""

END_S = 60.0
"""Longest time until a plan that was told to end has cleaned up."""


class Running:
    """The handle of a plan that runs: what :meth:`Session.run` and :meth:`Session.scan` return.

    Attributes
    ----------
    uids:
        Of the runs that the plan has opened so far.
    exception:
        What made the plan fail; None where nothing did. :meth:`wait` raises it.
    """

    def __init__(self, session: Session, plan: Any) -> None:
        self._session, self._RE = session, session.RE
        self.uids: list[str] = []
        self.exception: BaseException | None = None
        self._asked = ""
        self._ended = threading.Event()
        self._status = ""
        self._foreground = False
        self._thread: threading.Thread | None = None
        if plan is not None:
            self._go(lambda: self._RE(plan, {"start": self._opened, "stop": self._closed}))

    @classmethod
    def foreground(cls, session: Session) -> Running:
        """Return a handle of the plan that runs, or is paused, by ``s.RE(plan)`` at the prompt."""
        handle = cls(session, None)
        handle.uids = [session.news.uid] if session.news.uid else []
        handle._foreground, session.current = True, handle
        return handle

    def _opened(self, _: str, doc: dict[str, Any]) -> None:
        self.uids.append(doc["uid"])

    def _closed(self, _: str, doc: dict[str, Any]) -> None:
        self._status = doc["exit_status"]

    def _go(self, call: Callable[[], Any]) -> threading.Thread:
        """Work in a thread that is no daemon: a script whose last line is a scan ends after the scan."""
        self._thread = threading.Thread(target=self._work, args=(call,), name="session-plan")
        self._thread.start()
        return self._thread

    def _work(self, call: Callable[[], Any]) -> None:
        from bluesky.utils import RunEngineInterrupted

        try:
            call()
        except RunEngineInterrupted:
            if self._RE.state == "paused":
                return
        except BaseException as error:  # noqa: BLE001  (kept for whoever waits)
            self.exception = error
        self._finish()

    def _finish(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            if self.exception is not None and not self._asked:
                logger.error("the plan failed: %s", self.exception)

    # what it is -------------------------------------------------------------------------------------------------------

    @property
    def uid(self) -> str | None:
        """Of the first run; None until it is open."""
        return self.uids[0] if self.uids else None

    @property
    def state(self) -> str:
        """What the plan does now.

        ``running``, ``pausing``, ``paused``, ``stopping``, ``aborting``; ended: ``done``, ``stopped``, ``aborted``,
        ``failed``.
        """
        if not self.ended:
            now = str(self._RE.state)
            return "running" if now in ("idle", "suspending") else now
        if self._asked:
            return self._asked
        return "failed" if self.exception is not None else "aborted" if self._last_status() == "abort" else "done"

    def _last_status(self) -> str:
        news = self._session.news
        return self._status or (news.exit_status if news.uid in self.uids else "")

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self._ended.is_set() or (self._foreground and self._RE.state == "idle")

    # what it may be told ----------------------------------------------------------------------------------------------

    def pause(self, defer: bool = False) -> Running:
        """Rest: at once, or, with `defer`, at the next checkpoint; no frame is lost or repeated.

        Raises
        ------
        SessionError
            When the plan has ended, or does not rest in time.
        """
        self._still("pause")
        if self._RE.state == "paused":
            return self
        self._ask(lambda: self._RE.request_pause(defer))
        if not defer:
            self._until(lambda: self.state == "paused" or self.ended, PAUSE_S, "rest")
        return self

    def resume(self) -> Running:
        """Go on from where it paused.

        Raises
        ------
        SessionError
            When it is not paused.
        """
        if self.ended or self._RE.state != "paused":
            raise SessionError(f"the plan is {self.state}; only a paused one can be resumed")
        if self._thread is not None:
            self._thread.join(PAUSE_S)  # the thread that paused is on its last lines
        self._foreground = False
        thread = self._go(self._RE.resume)
        self._until(lambda: self.state != "paused" or not thread.is_alive(), PAUSE_S, "go on")
        return self

    def stop(self) -> Running:
        """End it now as a success: what was measured is a good run, and is reconstructed."""
        return self._end("stopped", self._RE.stop)

    def abort(self, reason: str = "aborted by the user") -> Running:
        """End it now as aborted; what was measured is kept, and reconstructed where that is possible."""
        return self._end("aborted", lambda: self._RE.abort(reason))

    def _end(self, how: str, call: Callable[[], Any]) -> Running:
        self._still(how.removesuffix("ped").removesuffix("ed"))
        self._asked = how
        was_paused = self._RE.state == "paused"
        try:
            self._ask(call)
        except SessionError:
            self._asked = ""
            raise
        if was_paused:
            self._finish()
        self._until(lambda: self.ended, END_S, "clean up")
        return self

    def _ask(self, call: Callable[[], Any]) -> None:
        """Tell the RunEngine; a thread that has only just begun is given a moment."""
        from bluesky.utils import RunEngineInterrupted, TransitionError

        deadline = time.monotonic() + PAUSE_S
        while not self.ended:
            try:
                call()
            except RunEngineInterrupted:
                return
            except TransitionError as error:
                if time.monotonic() > deadline:
                    raise SessionError(f"the RunEngine is {self._RE.state} and refuses: {error}") from None
                time.sleep(0.01)
            else:
                return

    def _still(self, what: str) -> None:
        if self.ended:
            raise SessionError(f"there is nothing to {what}: the plan has ended ({self.state})")

    def _until(self, there: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not there():
            if time.monotonic() > deadline:
                raise SessionError(f"the plan was told to {what} but is still {self.state} after {timeout_s:.0f} s")
            time.sleep(0.005)

    def wait(self, timeout: float | None = None) -> Running:
        """Return when the plan has ended; Ctrl-C pauses it at the next checkpoint and gives the prompt back.

        Parameters
        ----------
        timeout:
            Seconds; None waits as long as it takes.

        Raises
        ------
        SessionError
            When the time is over; the plan goes on.
        Exception
            Whatever made the plan fail.
        """
        try:
            over = not self._ended.wait(timeout)
        except KeyboardInterrupt:
            with contextlib.suppress(SessionError):
                self.pause(defer=True)
            raise
        if over:
            raise SessionError(
                f"the plan is still {self.state} after {timeout:g} s; it goes on: wait longer, or stop it"
            )
        if self.exception is not None and not self._asked:
            raise self.exception
        return self

    # what comes of it -------------------------------------------------------------------------------------------------

    @property
    def job_ids(self) -> list[str]:
        """Of the reconstructions of its runs, as far as they are dispatched."""
        return [job for job, uid in self._session.dispatched().items() if uid in self.uids]

    def reconstruction(self, timeout: float = 3600.0) -> Any:
        """Wait for the plan and for its reconstruction, and return it as it stands in Tiled.

        Parameters
        ----------
        timeout:
            Longest time to wait for either, seconds.

        Raises
        ------
        SessionError
            When nothing was dispatched.
        DispatchError
            When the job failed; the text says why.
        """
        self.wait(timeout)
        if not self.job_ids:
            raise SessionError(
                "no reconstruction was dispatched: the run is too short, or the session has dispatch=False"
            )
        return self._session.reconstruction(self.job_ids[-1], timeout)

    def __repr__(self) -> str:
        state, news = self.state, self._session.news
        uid = (self.uid or "")[:8] or "(no run yet)"
        head = f"<plan {state}, run {uid}"
        if news.uid in self.uids and news.frames:
            head += f", {news.frames}{f' of {news.planned}' if news.planned else ''} frames"
            if (left := news.seconds_left) is not None and state == "running":
                head += f", {left:.0f} s left"
        if self.exception is not None:
            head += f": {type(self.exception).__name__}: {self.exception}"
        next_steps = {"paused": ".resume() .stop() .abort()", "running": ".pause() .stop() .abort() .wait()"}
        if state in FINAL:
            return f"{head}; .reconstruction() waits for the image>" if self.job_ids else f"{head}>"
        return f"{head}; {next_steps.get(state, '.wait()')}>"
