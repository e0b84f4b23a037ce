"""What a console shows of a run: a heading, a few lines, a line that moves, and in the end where it all is."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from ptycho_bluesky.callbacks._run_news import RunNews

__all__ = ["Console", "web_address"]

logger = logging.getLogger(__name__)

TICK_S = 0.25
"""Seconds between two looks of the line that moves."""

ROW_S = 1.0
"""Least seconds between two rows; the longer a run lasts the fewer come: 140 in two hours."""

SLOW_S = 0.5
"""A wait that is shorter is not spoken of."""

BAR = 24


class Console:
    """Bluesky callback that says what a run does, without a line for every point.

    Rows of a table come once a second at most. On a terminal the last line moves: how far the run is, what the live
    image makes of it, and, where the RunEngine waits for a device, how far that is. Files and notebooks get the rows
    alone. It costs the RunEngine's thread some microseconds for an event, and never raises into it.

    Parameters
    ----------
    live:
        A :class:`LiveInference` whose state is shown as well.
    catalog:
        The Tiled client to which runs go: at a run's end its address on Tiled's web page is told.
    dispatch:
        A :class:`DispatchOnStop` that is subscribed before the console: the job of the run is told as well.
    stream:
        Where to; None for standard output as it is at each line.
    moving:
        Whether the last line moves; None: where `stream` is a terminal.

    Examples
    --------
    >>> console = Console(live)  # doctest: +SKIP
    >>> RE.subscribe(console)  # doctest: +SKIP
    >>> RE.waiting_hook = console.waiting  # doctest: +SKIP
    """

    def __init__(
        self,
        live: Any = None,
        *,
        catalog: Any = None,
        dispatch: Any = None,
        stream: TextIO | None = None,
        moving: bool | None = None,
    ) -> None:
        self.news = RunNews()
        self._live, self._catalog, self._dispatch = live, catalog, dispatch
        self._stream, self._moving = stream, moving
        self._jobs_before = self._failures_before = 0
        self._lock = threading.Lock()
        self._drawn = 0
        self._row_at = 0.0
        self._waiting: tuple[float, list[Any]] | None = None
        self._wait_text = ""
        self._closed = threading.Event()
        self._ticker: threading.Thread | None = None

    # what the RunEngine calls -----------------------------------------------------------------------------------------

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document; never raises."""
        try:
            self.news(name, doc)
            if name == "start":
                self._start()
            elif name in ("event", "event_page", "stream_datum"):
                self._row()
            elif name == "stop" and doc["run_start"] == self.news.uid:
                self._stop()
        except Exception:
            logger.exception("the console could not show a %r document", name)

    def waiting(self, statuses: Iterable[Any] | None) -> None:
        """Take note of what the RunEngine waits for: ``RE.waiting_hook = console.waiting``."""
        self._waiting = None if statuses is None else (time.monotonic(), list(statuses))
        self._wait_text = ""
        if statuses is not None:
            self._tick_along()

    # rows -------------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        news, doc = self.news, self.news.start_document
        many = f"{news.planned} points" if news.planned else "points"
        sample = doc.get("sample") or doc.get("sample_name") or ""
        parts = [f"Scan {doc.get('scan_id', '')}", news.uid[:8], str(doc.get("plan_name", "")), many, str(sample)]
        parts.append(time.strftime("begun at %H:%M:%S", time.localtime(news.began)))
        self._say("", "  ".join(part for part in parts if part))
        if news.metadata is not None:
            unit = "um" if news.metadata.position_unit != "px" else "px"
            self._say(f"{'frame':>8}  {'time':>8}  {f'y ({unit})':>9}  {f'x ({unit})':>9}  {'live':>8}  confidence")
        self._row_at = 0.0
        if self._dispatch is not None:
            self._jobs_before, self._failures_before = len(self._dispatch.job_ids), len(self._dispatch.failures)
        self._tick_along()

    def _row(self) -> None:
        news, now = self.news, time.monotonic()
        if news.metadata is None or now < self._row_at or not news.frames:
            return
        self._row_at = now + max(ROW_S, news.elapsed_s / 20)
        where = news.measured[-1:]
        scale = 1e6 if news.metadata.position_unit != "px" else 1.0
        y, x = (f"{v * scale:9.3f}" for v in where[0]) if len(where) else (f"{'':9}", f"{'':9}")
        inferred, confidence = self._seen()
        self._say(f"{news.frames:8d}  {time.strftime('%H:%M:%S')}  {y}  {x}  {inferred:>8}  {confidence}")

    def _seen(self) -> tuple[str, str]:
        status = None if self._live is None else self._live.status()
        if status is None or status.run_uid != self.news.uid:
            return "", ""
        return str(status.frames_inferred), "" if status.confidence is None else f"{status.confidence:.2f}"

    def _stop(self) -> None:
        news, seconds = self.news, max(self.news.elapsed_s, 1e-9)
        ends = {"success": "done", "abort": "aborted", "fail": "failed"}
        frames = f"{news.frames} frames in {seconds:.1f} s ({news.frames / seconds:.1f} a second)"
        inferred, confidence = self._seen()
        seen = f"; {inferred} in the live image" if inferred else ""
        seen += f", confidence {confidence}" if confidence else ""
        why = f": {news.reason}" if news.reason else ""
        ended = ends.get(news.exit_status, news.exit_status)
        self._say(f"Scan {news.start_document.get('scan_id', '')} {ended}{why}; {frames}{seen}")
        self._say(*(f"  {what:15} {where}" for what, where in self._links()))

    def _links(self) -> Iterator[tuple[str, str]]:
        """Yield where the data of the run are, and what became of its reconstruction."""
        if (web := web_address(self._catalog)) is not None:
            yield "data", f"{web}/browse/raw/{self.news.uid}"
        if self._dispatch is not None:
            for job in self._dispatch.job_ids[self._jobs_before :]:
                yield "reconstruction", f"ptycho-bluesky jobs show {job}"
            for failure in self._dispatch.failures[self._failures_before :]:
                yield "reconstruction", f"none: {failure}"

    def _say(self, *lines: str) -> None:
        stream = self._stream or sys.stdout
        if not lines:
            return
        with self._lock:
            self._erase(stream)
            stream.write("".join(f"{line.rstrip()}\n" for line in lines))
            stream.flush()

    # the line that moves ----------------------------------------------------------------------------------------------

    def _is_moving(self) -> bool:
        return (self._stream or sys.stdout).isatty() if self._moving is None else self._moving

    def _tick_along(self) -> None:
        """Let the line move, in a thread that ends when there is nothing more to show."""
        if not self._is_moving() or self._closed.is_set() or (self._ticker is not None and self._ticker.is_alive()):
            return
        self._ticker = threading.Thread(target=self._tick, name="console-line", daemon=True)
        self._ticker.start()

    def _tick(self) -> None:
        while not self._closed.wait(TICK_S) and (self.news.running or self._waiting is not None):
            try:
                self.draw()
            except (OSError, ValueError):  # the terminal has gone away
                return
        with self._lock:
            self._erase(self._stream or sys.stdout)

    def draw(self) -> None:
        """Draw the line that moves as it is now."""
        line, stream = self.line(), self._stream or sys.stdout
        with self._lock:
            self._erase(stream)
            stream.write(line)
            stream.flush()
            self._drawn = len(line)

    def _erase(self, stream: TextIO) -> None:
        if self._drawn:
            stream.write("\r" + " " * self._drawn + "\r")
            self._drawn = 0

    def line(self) -> str:
        """Return what the line that moves says now; empty where there is nothing to say."""
        news, parts = self.news, []
        if news.running and news.planned:
            done = min(news.frames / news.planned, 1.0)
            full = round(done * BAR)
            parts.append(f"[{'#' * full}{'.' * (BAR - full)}] {news.frames}/{news.planned}")
            parts.append(f"{news.frames / max(news.elapsed_s, 1e-9):.1f} frames/s")
            if (left := news.seconds_left) is not None:
                parts.append(f"{_short(left)} left")
            inferred, _ = self._seen()
            parts += [f"live {inferred}"] if inferred else []
        if waits := self._waits():
            parts.append(waits)
        return "  ".join(parts)[:110]

    def _waits(self) -> str:
        waiting = self._waiting
        if waiting is None or time.monotonic() - waiting[0] < SLOW_S:
            return ""
        if not self._wait_text:
            self._wait_text = f"waiting for {len(waiting[1])} devices" if len(waiting[1]) != 1 else "waiting"
            for status in waiting[1]:
                if hasattr(status, "watch"):
                    status.watch(self._watch)
        return self._wait_text

    def _watch(self, **news: Any) -> None:
        """Take the news of a status object, as Bluesky's progress bars do."""
        name, current, target, unit = (news.get(key) for key in ("name", "current", "target", "unit"))
        if name is None or current is None or target is None:
            return
        try:
            text = f"waiting for {name}: {float(current):.4g} of {float(target):.4g} {unit or ''}".rstrip()
        except (TypeError, ValueError):
            return
        left = news.get("time_remaining")
        self._wait_text = text + (f", {_short(float(left))} left" if isinstance(left, int | float) else "")

    def close(self) -> None:
        """Let the line rest for good."""
        self._closed.set()
        if self._ticker is not None:
            self._ticker.join(1.0)


def web_address(catalog: Any) -> str | None:
    """Return the address of Tiled's web page, without a key; None where Tiled is not, or not yet, connected."""
    if catalog is None or not getattr(catalog, "ready", True):
        return None
    return str(catalog.context.api_uri).rstrip("/").removesuffix("/api/v1") + "/ui"


def _short(seconds: float) -> str:
    """Return a time that people can read at a glance."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
