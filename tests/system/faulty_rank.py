"""One rank with a fault: ``python faulty_rank.py SPEC FAULT...``, in torchrun's environment.

``nan`` spoils one sweep of rank 1, ``full`` leaves rank 1 no room for files, ``slow`` makes rank 1 slower.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from dataclasses import replace

import numpy as np

from ptycho_bluesky.reconstruction.distributed import _worker
from ptycho_bluesky.reconstruction.kernels._numba import CpuKernels

NAN_AT, SLOW_S = 15, 0.02

if __name__ == "__main__":
    faults, spec = sys.argv[2:], sys.argv[1]
    logging.basicConfig(level=logging.INFO, format=f"rank {os.environ['RANK']}: %(message)s")
    sweep, calls = CpuKernels.sweep, 0

    def faulty(self, model, groups, steps, rng):
        global calls
        calls += 1
        if "slow" in faults:
            time.sleep(SLOW_S)
        swept = sweep(self, model, groups, steps, rng)
        if "nan" in faults and calls == NAN_AT:
            spoilt = swept.model.object.copy()
            spoilt[0, 40, 40] = np.nan
            return replace(swept, model=replace(swept.model, object=spoilt))
        return swept

    if os.environ["RANK"] == "1":
        CpuKernels.sweep = faulty
        if "full" in faults:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    _worker.work(spec)
