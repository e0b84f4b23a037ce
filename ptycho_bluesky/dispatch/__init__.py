"""Dispatch: reconstructions and trainings as jobs that survive the console, each in a folder, with a ledger over all.

Light to import: only the runner loads engines.
"""

from ptycho_bluesky.dispatch._array import (
    ArrayStatus,
    array_status,
    arrays,
    cancel_array,
    enter_in_array,
    retry_array,
    submit_array,
)
from ptycho_bluesky.dispatch._array_file import ArrayMember
from ptycho_bluesky.dispatch._clean import Cleaned, clean
from ptycho_bluesky.dispatch._executor import Executor, LocalExecutor
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._jobs import (
    AnyExecutor,
    cancel,
    history,
    jobs,
    logs,
    retry,
    spec_of,
    status,
    stop,
    submit,
    wait,
    warm_up,
)
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._pending import register_pending
from ptycho_bluesky.dispatch._spec import RECIPES, FileSource, JobSpec, ReconstructionSource, TiledSource
from ptycho_bluesky.dispatch._status import FINAL, TRANSITIONS, JobState, JobStatus
from ptycho_bluesky.dispatch._training_spec import FollowUp, TrainingOrder

__all__ = [
    "FINAL",
    "RECIPES",
    "TRANSITIONS",
    "AnyExecutor",
    "ArrayMember",
    "ArrayStatus",
    "Cleaned",
    "Executor",
    "FileSource",
    "FollowUp",
    "JobFolder",
    "JobSpec",
    "JobState",
    "JobStatus",
    "Ledger",
    "LocalExecutor",
    "ReconstructionSource",
    "TiledSource",
    "TrainingOrder",
    "array_status",
    "arrays",
    "cancel",
    "cancel_array",
    "clean",
    "enter_in_array",
    "history",
    "jobs",
    "logs",
    "register_pending",
    "retry",
    "retry_array",
    "spec_of",
    "status",
    "stop",
    "submit",
    "submit_array",
    "wait",
    "warm_up",
]
