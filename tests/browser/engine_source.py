"""A source for notebooks in tests: the simulated image, a real RunEngine behind the buttons, a log of its states."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from bluesky import RunEngine
from bluesky.plans import count
from bluesky.utils import RunEngineInterrupted
from ophyd.sim import det

from ptycho_bluesky.jupyter import Action, SimulatedSource, Snapshot


class EngineSource(SimulatedSource):
    """`blocking`: the plan is meant to run in a cell; otherwise :meth:`start` runs it in a thread."""

    def __init__(self, log: str, *, blocking: bool = False, points: int = 3000, **options: Any) -> None:
        super().__init__(**options)
        self.log, self.blocking, self.points = Path(log), blocking, points
        self.RE = RunEngine({}) if blocking else RunEngine({}, context_managers=[])
        self.RE.state_hook = lambda new, old: self.note(state=str(new))
        self.RE.subscribe(lambda _, doc: self.note(exit_status=doc["exit_status"]), "stop")

    def note(self, **what: Any) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps({"time": time.time(), **what}) + "\n")

    def plan(self) -> Any:
        return count([det], num=self.points, delay=0.01)

    def start(self) -> None:
        threading.Thread(target=self._quietly, args=(lambda: self.RE(self.plan()),), daemon=True).start()

    @staticmethod
    def _quietly(call: Any) -> None:
        try:
            call()
        except RunEngineInterrupted:
            return

    def snapshot(self) -> Snapshot:
        return replace(super().snapshot(), engine=str(self.RE.state), blocking=self.blocking)

    def act(self, action: Action, job_id: str = "") -> str:
        if action in ("dispatch", "cancel_job"):
            text = super().act(action, job_id)
            self.note(job=text)
            return text
        call = {
            "pause": self.RE.request_pause,
            "resume": self.RE.resume,
            "abort": self.RE.abort,
            "stop_and_keep": self.RE.stop,
        }[action]
        threading.Thread(target=self._quietly, args=(call,), daemon=True).start()
        return action


def notes(log: Path) -> list[dict[str, Any]]:
    """Return what a source has noted so far."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


class Costs:
    """Processor time that a dashboard takes in its kernel, written to a file once a second, for benchmarks."""

    def __init__(self, dashboard: Any, file: str) -> None:
        self.seconds = dict.fromkeys(("thread", "source", "hear"), 0.0)
        self.dashboard, self.file, self.events = dashboard, Path(file), 0
        dashboard.source.RE.subscribe(self._event, "event")
        self._time(dashboard, "_turn", "thread")
        self._time(dashboard.feed, "hear", "hear")
        for name in ("snapshot", "image", "frame", "path"):
            self._time(dashboard.source, name, "source")
        threading.Thread(target=self._tell, daemon=True).start()

    def _event(self, _name: str, _doc: dict[str, Any]) -> None:
        self.events += 1

    def _time(self, owner: Any, name: str, entry: str) -> None:
        call = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            begin = time.thread_time()
            try:
                return call(*arguments)
            finally:
                self.seconds[entry] += time.thread_time() - begin

        setattr(owner, name, timed)

    def _tell(self) -> None:
        while True:
            own = psutil.Process()
            told = {"events": self.events, "messages": self.dashboard.feed._number, "rss": own.memory_info().rss}
            part = self.file.with_suffix(".tmp")
            part.write_text(json.dumps({**self.seconds, **told}))
            part.replace(self.file)
            time.sleep(1)
