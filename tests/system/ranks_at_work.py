"""One process of the tests: ``python ranks_at_work.py PLAN``, a JSON list, prints a JSON object for each job.

It is one rank of one reconstruction after the other: to start a process takes longer than all the rest. Some jobs have
a fault: ``nan`` spoils one sweep of rank 1, ``full`` leaves it no room for files, ``slow`` makes it slower.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.reconstruction.distributed import _worker
from ptycho_bluesky.reconstruction.distributed._batches import RankBatches
from ptycho_bluesky.reconstruction.kernels._numba import CpuKernels

NAN_AT, NAN_AT_BATCH, SLOW_S = 80, 15, 0.02
"""Calls of the faulty function; the first sweeps belong to the coarse start."""


@contextlib.contextmanager
def fault(*faults: str) -> Iterator[None]:
    """Put faults into this process."""
    sweep, batches, limits = CpuKernels.sweep, RankBatches.batches, resource.getrlimit(resource.RLIMIT_FSIZE)
    calls = 0

    def faulty(self, model, groups, steps, rng):
        nonlocal calls
        calls += 1
        if "slow" in faults:
            time.sleep(SLOW_S)
        swept = sweep(self, model, groups, steps, rng)
        if "nan" in faults and calls == NAN_AT:
            spoilt = swept.model.object.copy()
            spoilt[0, 40, 40] = np.nan
            return replace(swept, model=replace(swept.model, object=spoilt))
        return swept

    def spoilt_batches(self, kind="compact", rng=None):
        nonlocal calls
        for frames, amplitude in batches(self, kind, rng):
            calls += 1
            yield frames, amplitude * np.nan if "nan" in faults and calls == NAN_AT_BATCH else amplitude

    CpuKernels.sweep, RankBatches.batches = faulty, spoilt_batches
    if "full" in faults:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        CpuKernels.sweep, RankBatches.batches = sweep, batches
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


if __name__ == "__main__":
    said = Said()
    logging.basicConfig(level=logging.INFO, handlers=[said])
    for job in json.loads(sys.argv[1]):
        os.environ |= job["environment"]
        said.lines.clear()
        try:
            with fault(*(job["faults"] if job["environment"]["RANK"] == "1" else ())):
                _worker.work(job["spec"])
        except PtychoError as error:
            said.lines.append(str(error))
        sys.stdout.write(json.dumps({job["name"]: "\n".join(said.lines)}) + "\n")
        sys.stdout.flush()
