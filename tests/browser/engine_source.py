"""A source for notebooks in tests: the simulated image, a real RunEngine behind the buttons, a log of its states."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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
