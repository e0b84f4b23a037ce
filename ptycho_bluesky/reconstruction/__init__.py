"""Reconstruction: engines written once on a small set of kernels, for CPUs (numba) and any device (torch).

>>> from ptycho_bluesky.formats import load_dataset
>>> result = reconstruct(load_dataset("scan.cxi"), max_seconds=60)  # doctest: +SKIP
"""

from ptycho_bluesky.reconstruction._fast import FastEngine, FastOptions
from ptycho_bluesky.reconstruction._frc import RingCorrelation, fourier_ring_correlation
from ptycho_bluesky.reconstruction._reconstruct import ENGINES, reconstruct
from ptycho_bluesky.reconstruction._state import Engine, EngineState

__all__ = [
    "ENGINES",
    "Engine",
    "EngineState",
    "FastEngine",
    "FastOptions",
    "RingCorrelation",
    "fourier_ring_correlation",
    "reconstruct",
]
