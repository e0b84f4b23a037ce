"""The choice of an implementation of the kernels."""

from __future__ import annotations

from typing import Literal

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.kernels._protocol import Kernels

__all__ = ["Backend", "kernels_for"]

Backend = Literal["auto", "numba", "torch"]


def kernels_for(problem: Problem, device: str, backend: Backend = "auto", threads: int | None = None) -> Kernels:
    """Return the kernels for a device; ``"auto"`` takes numba on a CPU and torch elsewhere.

    Raises
    ------
    ReconstructionError
        When the device is not there, or the backend cannot work on it.
    """
    if backend == "numba" or (backend == "auto" and device == "cpu"):
        if device != "cpu":
            raise ReconstructionError(
                f"the numba kernels work on the CPU alone, given was device {device!r}: use kernels 'torch' or 'auto'"
            )
        from ptycho_bluesky.reconstruction.kernels._numba import CpuKernels  # numba takes a second to import

        return CpuKernels(problem, threads or settings().threads)
    from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels  # and torch two

    return BatchKernels(problem, device, threads)
