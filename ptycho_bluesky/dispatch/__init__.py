"""Dispatch: a reconstruction as a job that survives the console, in a folder of its own, with a ledger over all.

Light to import: only the runner loads engines.
"""

from ptycho_bluesky.dispatch._executor import Executor, LocalExecutor
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._jobs import cancel, jobs, logs, retry, status, stop, submit, wait
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._pending import register_pending
from ptycho_bluesky.dispatch._spec import RECIPES, FileSource, JobSpec, TiledSource
from ptycho_bluesky.dispatch._status import FINAL, TRANSITIONS, JobState, JobStatus

__all__ = [
    "FINAL",
    "RECIPES",
    "TRANSITIONS",
    "Executor",
    "FileSource",
    "JobFolder",
    "JobSpec",
    "JobState",
    "JobStatus",
    "Ledger",
    "LocalExecutor",
    "TiledSource",
    "cancel",
    "jobs",
    "logs",
    "register_pending",
    "retry",
    "status",
    "stop",
    "submit",
    "wait",
]
