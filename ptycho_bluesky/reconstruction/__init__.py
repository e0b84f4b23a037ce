"""Reconstruction: engines written once on a small set of kernels, for CPUs (numba) and any device (torch).

>>> from ptycho_bluesky.formats import load_dataset
>>> result = reconstruct(load_dataset("scan.cxi"), max_seconds=60)  # doctest: +SKIP
"""

from ptycho_bluesky.reconstruction._reconstruct import ENGINES, reconstruct
from ptycho_bluesky.reconstruction.engines import Engine, EngineOptions, EngineState, FastEngine, FastOptions
from ptycho_bluesky.reconstruction.judgement import RingCorrelation, fourier_ring_correlation

__all__ = [
    "ENGINES",
    "Engine",
    "EngineOptions",
    "EngineState",
    "FastEngine",
    "FastOptions",
    "RingCorrelation",
    "fourier_ring_correlation",
    "reconstruct",
]
