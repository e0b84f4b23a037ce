"""The small set of kernels on which every engine is written, and the choice of its implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._problem import Model, Problem, Subpixel

__all__ = ["Backend", "Kernels", "Steps", "kernels_for"]

Backend = Literal["auto", "numba", "torch"]


@dataclass(frozen=True)
class Steps:
    """How far a sweep goes (see :class:`FastOptions`)."""

    object: float
    probe: float
    alpha_object: float
    alpha_probe: float


class Kernels(Protocol):
    """Exit waves, modulus projection with error, update of object and probe: one sweep of them over all frames."""

    name: str
    """For logs and provenance."""

    device: str
    """``"cpu"``, ``"cuda"``, ``"cuda:1"``..."""

    def sweep(self, model: Model, subpixel: Subpixel, steps: Steps, rng: np.random.Generator) -> tuple[Model, float]:
        """Update the model with every frame once; return it with the R-factor seen on the way."""
        ...

    def r_factor(self, model: Model, subpixel: Subpixel) -> float:
        """Return the R-factor over all frames, with the best global scale."""
        ...


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
        from ptycho_bluesky.reconstruction._cpu import CpuKernels  # numba takes a second to import

        return CpuKernels(problem, threads or settings().threads)
    from ptycho_bluesky.reconstruction._torch_kernels import TorchKernels  # and torch two

    return TorchKernels(problem, device, threads)
