"""The runner here of a job there: ``python -m ptycho_bluesky.dispatch.globus.courier JOBFOLDER SLOTS``."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ptycho_bluesky._resources import GlobusResource
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch.globus._flow import Flow
from ptycho_bluesky.dispatch.globus._steps import FILE
from ptycho_bluesky.dispatch.runner import _Runner, main
from ptycho_bluesky.errors import FacilityError

__all__ = ["Courier"]

NEWS_S = 1.0
"""Shortest time between two news of progress."""


class Courier(_Runner):
    """Takes a job to its facility and what it makes back; all else is as for any job."""

    _told = 0.0

    def watch(self, limit_s: float | None) -> subprocess.Popen[bytes] | None:
        """Start no watchdog: the facility's own counts the time that the job is at work."""
        return None

    def tell(self, news: dict[str, Any]) -> None:
        """Tell of progress, not too often where only numbers change."""
        merged = {**self.job.status().progress, **news}
        changed = {k: v for k, v in news.items() if self.job.status().progress.get(k) != v}
        if changed and ("stage" in changed or time.monotonic() - self._told > NEWS_S):
            self._told = time.monotonic()
            self.job.record(self.job.status().state, progress=merged)

    def run(self) -> int:
        """Return the exit status; one that was cancelled before its turn may be at work there since an earlier try."""
        code = super().run()
        if self.job.cancel_file.exists() and (self.job.path / FILE).exists():
            self._way(self.job.spec()).recall()
        return code

    def _work(self, spec: Any) -> None:
        made = self._way(spec).run()
        if made is not None and not self.given_up():
            made.replace(self.job.result_file)
        elif made is None and not self.given_up():
            self.job.cancel_file.touch()  # stopped before there was anything to keep

    def _way(self, spec: Any) -> Flow:
        resource = settings().resources.get(spec.place)
        if not isinstance(resource, GlobusResource):
            raise FacilityError(
                f"the settings have no resource {spec.place!r} of kind globus; add it, then retry", "user"
            )
        return Flow(self.job, spec, resource, lambda: self.terminated, self.tell)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), Courier))
