"""The steps of a job's way to a facility and back, on disk: whoever goes on with it begins where it was left."""

from __future__ import annotations

import json
import time
from typing import Any

from ptycho_bluesky.dispatch._folder import JobFolder, atomic_write

__all__ = ["FILE", "Steps"]

FILE = "flow.json"
"""In a job's folder."""


class Steps:
    """``flow.json`` of a job: what each step has noted, and which are done.

    Parameters
    ----------
    job:
        Whose history tells of each step as well.
    """

    def __init__(self, job: JobFolder) -> None:
        self._job, self._path = job, job.path / FILE
        try:
            kept = json.loads(self._path.read_text())
        except (OSError, ValueError):
            kept = {}
        self._kept: dict[str, dict[str, Any]] = kept if isinstance(kept, dict) else {}

    def of(self, step: str) -> dict[str, Any]:
        """Return what a step has noted."""
        return dict(self._kept.get(step, {}))

    def done(self, step: str) -> bool:
        """Whether a step is done."""
        return bool(self.of(step).get("done"))

    def note(self, step: str, **news: Any) -> None:
        """Note something of a step; it is on disk when this returns."""
        begun = {"begun": time.time()} if step not in self._kept else {}
        self._kept[step] = {**self._kept.get(step, {}), **begun, **news}
        atomic_write(self._path, json.dumps(self._kept, indent=1))

    def finish(self, step: str, said: str, **news: Any) -> None:
        """Note that a step is done, here and in the job's history."""
        seconds = round(time.time() - float(self.of(step).get("begun", time.time())), 3)
        self.note(step, done=True, seconds=seconds, said=said, **news)
        self.tell(f"{step}: {said} ({seconds:.1f} s)")

    def forget(self, *steps: str) -> None:
        """Let steps be done again."""
        for step in steps:
            self._kept.pop(step, None)
        atomic_write(self._path, json.dumps(self._kept, indent=1))

    def tell(self, said: str) -> None:
        """Put a line into the job's history."""
        self._job.record(self._job.status().state, step=said)

    def seconds(self) -> dict[str, float]:
        """Return how long each step took, seconds."""
        return {name: float(step["seconds"]) for name, step in self._kept.items() if "seconds" in step}
