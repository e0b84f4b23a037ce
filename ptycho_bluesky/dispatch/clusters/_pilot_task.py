"""What a pilot does for a job: it starts the runner, and sees that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

__all__ = ["KILL", "run_in_pilot"]

KILL = "KILL"
"""File in a job's folder that asks the pilot, wherever it is, to kill the runner: Parsl itself cannot cancel a task."""

LOOK_S = 0.1


def run_in_pilot(runner: list[str], folder: str, shim: list[str], environment: dict[str, str]) -> int:
    """Run a job's runner until it ends, or until it is to be killed.

    Parameters
    ----------
    runner:
        Its command.
    folder:
        The job's.
    shim:
        Command that makes the runner end with this worker, however that ends; its last word is to be this process.
    environment:
        Variables for the runner.

    Returns
    -------
    int
        The runner's exit status.
    """
    kill = Path(folder) / KILL
    with (Path(folder) / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [*shim, str(os.getpid()), *runner],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            if kill.exists():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            time.sleep(LOOK_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode
