"""The fast engine: annealed rPIE, frame by frame."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import ClassVar

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._multigrid import can_be_coarser, coarser, finer
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._anneal import GENTLE, FastOptions, annealed, fast_epochs
from ptycho_bluesky.reconstruction.engines._base import BaseEngine
from ptycho_bluesky.reconstruction.engines._coarse import located
from ptycho_bluesky.reconstruction.engines._state import EngineState
from ptycho_bluesky.reconstruction.kernels import Kernels, kernels_for

__all__ = ["FastEngine"]

logger = logging.getLogger(__name__)


class FastEngine(BaseEngine[FastOptions]):
    """Sequential rPIE with mixed states, annealed.

    Maiden, Johnson and Li, Optica 4, 736 (2017); Thibault and Menzel, Nature 494, 68 (2013). Each frame acts at once,
    which wins the first epochs; the annealed step lets the noise average out in the last ones.
    """

    name = "fast"
    options_type = FastOptions
    supports: ClassVar[frozenset[str]] = frozenset({"position_correction", "slices"})

    def iterate(self, problem: Problem, options: FastOptions, kernels: Kernels | None = None) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at ``problem.start`` or at what a coarse problem makes of it."""
        warm, given = not problem.begins_empty, kernels
        kernels = kernels or kernels_for(problem, self.device, options.kernels, options.threads, options.data_type)
        if options.position_correction and not warm:
            problem = located(problem, kernels, options.seed)
        if options.coarse_epochs and given is None and not warm and can_be_coarser(problem):
            problem = self._coarse_start(problem, options)
        yield from annealed(problem, kernels, options, warm)

    def from_near(self, options: FastOptions, frames: int) -> FastOptions:
        """Return half of the epochs, in small steps, where their number is not given."""
        if options.epochs is not None:
            return options
        return options.model_copy(update={"epochs": fast_epochs(frames) // 2, "step": min(options.step, GENTLE)})

    def _coarse_start(self, problem: Problem, options: FastOptions) -> Problem:
        coarse = coarser(problem)
        kernels = kernels_for(coarse, self.device, options.kernels, options.threads, options.data_type)
        quick = options.model_copy(update={"epochs": options.coarse_epochs, "position_correction": False})
        try:
            *_, last = annealed(coarse, kernels, quick)
        except ReconstructionError as error:  # the fine problem will say what is wrong, if anything is
            logger.info("no coarse start: %s", error)
            return problem
        return finer(problem, last.model)
