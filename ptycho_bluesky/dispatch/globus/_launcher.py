"""Jobs at a facility: a courier here, a process of its own, takes each there and back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._launcher import LocalLauncher, detached
from ptycho_bluesky.errors import DispatchError

if TYPE_CHECKING:
    from ptycho_bluesky._resources import GlobusResource

__all__ = ["GlobusLauncher"]

EXTRA = "pip install 'ptycho-bluesky[globus]'"

RECALL_S = 15.0
"""Longest time that a courier may take to call a cancelled job back from the facility, before it is killed."""


class GlobusLauncher(LocalLauncher):
    """Starts couriers. They survive the console; a new one takes up the way of a dead one where it was left.

    Parameters
    ----------
    place, resource:
        Of the settings.
    """

    def __init__(self, place: str, resource: GlobusResource) -> None:
        super().__init__(place, resource)

    def launch(self, job: JobFolder) -> dict[str, Any]:
        """Start the courier of a job.

        Raises
        ------
        DispatchError
            When the SDKs of Globus are not installed.
        """
        if missing := [name for name in ("globus_sdk", "globus_compute_sdk") if find_spec(name) is None]:
            raise DispatchError(f"{', '.join(missing)} missing for jobs at {self._place}; {EXTRA}")
        process = detached("ptycho_bluesky.dispatch.globus.courier", job, self._slots)
        return {"kind": "globus", "place": self._place, "pid": process.pid}

    def kill(self, job: JobFolder, runner: Mapping[str, Any]) -> None:
        """End the courier, once it has called the job back, or has had the time for it."""
        deadline = time.monotonic() + RECALL_S
        while job.runner_pid() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        super().kill(job, runner)
