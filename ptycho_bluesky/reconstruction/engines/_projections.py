"""Difference map and RAAR: all exit waves, projected on what was measured and on their overlap."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import Field

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._base import BaseEngine
from ptycho_bluesky.reconstruction.engines._options import EngineOptions
from ptycho_bluesky.reconstruction.engines._state import EngineState

if TYPE_CHECKING:
    from ptycho_bluesky.reconstruction.engines._exit_waves import ExitWaves
    from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels

__all__ = ["DifferenceMapEngine", "DifferenceMapOptions", "ProjectionOptions", "RaarEngine", "RaarOptions"]


class ProjectionOptions(EngineOptions):
    """Options that the difference map and RAAR share. ``epochs=None`` takes 100."""

    beta: float = Field(default=1.0, gt=0, le=1)
    """How far an epoch goes."""

    probe_start: int = Field(default=2, ge=0)
    """First epoch that updates the probe."""

    inner: int = Field(default=1, ge=1, le=20)
    """Updates of object and probe, one after the other, in each projection on the overlap."""

    damping: float = Field(default=1e-3, gt=0, le=1)
    """Share of the largest illumination that holds badly lit pixels of the object (and, the other way round, of the
    probe) where they are."""

    settle: int = Field(default=10, ge=0, le=100_000)
    """Last epochs, which go back and forth between the two projections (error reduction): what wandered about the
    solution with the noise comes to rest in it."""

    average: int = Field(default=5, ge=1, le=1000)
    """Last epochs over which object and probe are averaged; 1 for the last one alone."""


class DifferenceMapOptions(ProjectionOptions):
    """Options of the difference map; ``beta`` is 1 as a rule."""


class RaarOptions(ProjectionOptions):
    """Options of RAAR."""

    beta: float = Field(default=0.75, gt=0, le=1)
    """Relaxation: at 1 it wanders as far as the difference map, towards 0 it ends in the nearest minimum."""

    settle: int = Field(default=0, ge=0, le=100_000)
    """As for the difference map; RAAR comes to rest by itself, and better."""

    average: int = Field(default=10, ge=1, le=1000)
    """Last epochs over which object and probe are averaged."""


_Options = TypeVar("_Options", bound=ProjectionOptions)


class _ProjectionEngine(BaseEngine[_Options]):
    def iterate(self, problem: Problem, options: _Options) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at ``problem.start``; the last ones are averages.

        Raises
        ------
        ReconstructionError
            When the exit waves do not fit into memory, or a number is not finite.
        """
        if options.kernels == "numba":
            raise ReconstructionError(
                f"engine {self.name!r} works on kernels 'torch' alone; leave the option 'kernels' out"
            )
        from ptycho_bluesky.reconstruction.engines._exit_waves import iterated
        from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels  # imports torch: two seconds

        kernels = BatchKernels(problem, self.device, options.threads)
        yield from iterated(self._waves(problem, options, kernels), problem, options, kernels)

    @abstractmethod
    def _waves(self, problem: Problem, options: _Options, kernels: BatchKernels) -> ExitWaves: ...


class DifferenceMapEngine(_ProjectionEngine[DifferenceMapOptions]):
    """Difference map with mixed states: finds its way out of local minima; settled and averaged at the end.

    Thibault, Dierolf, Menk, Bunk, David and Pfeiffer, Science 321, 379 (2008); Ultramicroscopy 109, 338 (2009).
    """

    name = "dm"
    options_type = DifferenceMapOptions
    supports: ClassVar[frozenset[str]] = frozenset()

    def _waves(self, problem: Problem, options: DifferenceMapOptions, kernels: BatchKernels) -> ExitWaves:
        from ptycho_bluesky.reconstruction.engines._exit_waves import DifferenceMap

        return DifferenceMap(problem, options, kernels, self.name)


class RaarEngine(_ProjectionEngine[RaarOptions]):
    """Relaxed averaged alternating reflections, with mixed states.

    Luke, Inverse Problems 21, 37 (2005); Marchesini et al., J. Appl. Cryst. 49, 1245 (2016).
    """

    name = "raar"
    options_type = RaarOptions
    supports: ClassVar[frozenset[str]] = frozenset()

    def _waves(self, problem: Problem, options: RaarOptions, kernels: BatchKernels) -> ExitWaves:
        from ptycho_bluesky.reconstruction.engines._exit_waves import RelaxedReflections

        return RelaxedReflections(problem, options, kernels, self.name)
