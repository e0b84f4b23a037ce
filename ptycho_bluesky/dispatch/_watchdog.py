"""Ends a job that runs longer than it may: ``python _watchdog.py RUNNER_PID SECONDS GRACE_S STOP_FILE MARK_FILE``.

A process of its own, which nothing that hangs in the runner can keep from its work. It imports nothing of the package,
so that it starts in 20 ms and stays small, and ends with its runner.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

POLL_S = 0.5


def _lives(runner: int, seconds: float) -> bool:
    """Wait so long as the runner, this process's parent, lives; return whether it still does."""
    deadline = time.monotonic() + seconds
    while os.getppid() == runner:
        left = deadline - time.monotonic()
        if left <= 0:
            return True
        time.sleep(min(POLL_S, left))
    return False


def main(runner: int, seconds: float, grace_s: float, stop_file: Path, mark: Path) -> None:
    """At the limit, ask the runner to end and keep what it has; kill its process group where it does not."""
    if not _lives(runner, seconds):
        return
    stop_file.touch()
    if _lives(runner, grace_s):
        mark.write_text(f"{seconds:g}")
        os.killpg(runner, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
