"""A reconstruction on several ranks inside a job. Heavy: imported by runners alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptycho_bluesky.dispatch._spec import FileSource, JobSpec
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction.distributed import reconstruct_ranks

__all__ = ["RANKS", "reconstruct_on_ranks"]

RANKS = "ranks"
"""Folder inside the job's, with checkpoints: a job that is tried again goes on where it was."""


def reconstruct_on_ranks(
    spec: JobSpec,
    dataset: PtychoDataset,
    options: dict[str, Any],
    should_stop: Callable[[], bool],
    on_progress: Callable[[Any], None],
    folder: Path,
) -> Reconstruction:
    """Reconstruct on the ranks of a specification, over all nodes that Slurm gave to this job.

    Parameters
    ----------
    spec:
        Of the job; where its source is a file, each rank reads its own frames from there.
    dataset:
        Of that source.
    options:
        The engine's.
    should_stop, on_progress:
        As for ``reconstruct_ranks``.
    folder:
        The job's.
    """
    result = reconstruct_ranks(
        spec.source.path if isinstance(spec.source, FileSource) else dataset,
        spec.ranks,
        spec.engine,
        options,
        nodes=min(spec.ranks, int(os.environ.get("SLURM_JOB_NUM_NODES", 1))),
        load=dict(spec.source.options) if isinstance(spec.source, FileSource) else None,
        device="cuda" if spec.device == "cuda" else "cpu",
        folder=folder / RANKS,
        should_stop=should_stop,
        on_progress=on_progress,
        max_seconds=spec.max_seconds,
    )
    shutil.rmtree(folder / RANKS, ignore_errors=True)
    return result
