"""Reconstruction: engines written once on a small set of kernels, for CPUs (numba) and any device (torch).

>>> from ptycho_bluesky.formats import load_dataset
>>> result = reconstruct(load_dataset("scan.cxi"), max_seconds=60)  # doctest: +SKIP
"""

from ptycho_bluesky.reconstruction._distance import DistanceReport, refined_distance
from ptycho_bluesky.reconstruction._growing import GrowingDataset
from ptycho_bluesky.reconstruction._joint import Shared
from ptycho_bluesky.reconstruction._reconstruct import reconstruct, reconstruct_scans
from ptycho_bluesky.reconstruction._start import Start, read_start
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
from ptycho_bluesky.reconstruction.judgement import RingCorrelation, fourier_ring_correlation

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
    "RingCorrelation",
    "Shared",
    "Start",
    "fourier_ring_correlation",
    "read_start",
    "reconstruct",
    "reconstruct_scans",
    "refined_distance",
]
