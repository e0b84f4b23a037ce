"""The fast engine: annealed rPIE, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._anneal import FastOptions, annealed
from ptycho_bluesky.reconstruction.engines._base import BaseEngine
from ptycho_bluesky.reconstruction.engines._state import EngineState
from ptycho_bluesky.reconstruction.kernels import Kernels, kernels_for

__all__ = ["FastEngine"]


class FastEngine(BaseEngine[FastOptions]):
    """Sequential rPIE with mixed states, annealed.

    Maiden, Johnson and Li, Optica 4, 736 (2017); Thibault and Menzel, Nature 494, 68 (2013). Each frame acts at once,
    which wins the first epochs; the annealed step lets the noise average out in the last ones.
    """

    name = "fast"
    options_type = FastOptions
    supports: ClassVar[frozenset[str]] = frozenset({"position_correction"})

    def iterate(self, problem: Problem, options: FastOptions, kernels: Kernels | None = None) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at ``problem.start``."""
        kernels = kernels or kernels_for(problem, self.device, options.kernels, options.threads)
        yield from annealed(problem, kernels, options)
