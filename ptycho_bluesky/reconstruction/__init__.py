"""Reconstruction: engines written once on a small set of kernels, for CPUs (numba) and any device (torch).

>>> from ptycho_bluesky.formats import load_dataset
>>> result = reconstruct(load_dataset("scan.cxi"), max_seconds=60)  # doctest: +SKIP
"""

import os

# Torch's threads wait for each other by spinning, unless told otherwise before it is loaded: with another process on
# the same cores they then take ten times as long and more.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ptycho_bluesky.reconstruction._distance import DistanceReport, refined_distance
from ptycho_bluesky.reconstruction._growing import GrowingDataset
from ptycho_bluesky.reconstruction._joint import Shared
from ptycho_bluesky.reconstruction._reconstruct import reconstruct, reconstruct_scans
from ptycho_bluesky.reconstruction._result import phase_and_amplitude
from ptycho_bluesky.reconstruction._start import Start, read_start
from ptycho_bluesky.reconstruction.diagnosis import check_dataset, detect_orientation
from ptycho_bluesky.reconstruction.engines import (
    ENGINES,
    AutoEngine,
    AutoOptions,
    Engine,
    EngineOptions,
    EngineState,
    FastEngine,
    FastOptions,
)
from ptycho_bluesky.reconstruction.judgement import (
    HalfDataResult,
    RingCorrelation,
    Uncertainty,
    fourier_ring_correlation,
    half_data_frc,
    judge,
    phase_retrieval_transfer,
    position_residual,
    uncertainty,
    write_report,
)

__all__ = [
    "ENGINES",
    "AutoEngine",
    "AutoOptions",
    "DistanceReport",
    "Engine",
    "EngineOptions",
    "EngineState",
    "FastEngine",
    "FastOptions",
    "GrowingDataset",
    "HalfDataResult",
    "RingCorrelation",
    "Shared",
    "Start",
    "Uncertainty",
    "check_dataset",
    "detect_orientation",
    "fourier_ring_correlation",
    "half_data_frc",
    "judge",
    "phase_and_amplitude",
    "phase_retrieval_transfer",
    "position_residual",
    "read_start",
    "reconstruct",
    "reconstruct_scans",
    "refined_distance",
    "uncertainty",
    "write_report",
]
