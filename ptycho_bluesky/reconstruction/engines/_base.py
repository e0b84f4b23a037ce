"""What all engines share: from a dataset to a problem with a probe to begin with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Generic, TypeVar

import numpy as np
from pydantic import BaseModel

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction._guess import guess_probe
from ptycho_bluesky.reconstruction._problem import Problem, prepare
from ptycho_bluesky.reconstruction.engines._anneal import FastOptions, annealed
from ptycho_bluesky.reconstruction.engines._options import EngineOptions, refuse_unsupported
from ptycho_bluesky.reconstruction.engines._state import EngineState
from ptycho_bluesky.reconstruction.kernels import kernels_for

__all__ = ["BaseEngine"]

MARGIN, MARGIN_FOR_CORRECTION = 16, 48
"""Object pixels around the outermost patches as given; corrected ones may go further."""

_Options = TypeVar("_Options", bound=EngineOptions)


class BaseEngine(ABC, Generic[_Options]):
    """An engine: a generator of states, any of which is a usable result.

    Parameters
    ----------
    device:
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``...
    """

    name: ClassVar[str]
    options_type: type[_Options]
    supports: ClassVar[frozenset[str]] = frozenset()
    """Which of ``position_correction``, ``background``, ``opr`` and ``slices`` it has."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def run(self, dataset: PtychoDataset, options: BaseModel | None = None) -> Iterator[EngineState]:
        """Reconstruct; yield a state after each epoch.

        Raises
        ------
        DatasetError, ReconstructionError
            When the dataset cannot be used, the device is not there, an option is not supported, or the iteration
            diverges.
        """
        chosen = self.options_type.model_validate({} if options is None else options.model_dump())
        yield from self.iterate(self.prepare(dataset, chosen), chosen)

    def prepare(self, dataset: PtychoDataset, options: _Options) -> Problem:
        """Return the problem (of `dataset`, by `options`) to begin with; a missing far-field probe is guessed."""
        refuse_unsupported(self.name, options, self.supports)
        return prepare(
            self.with_probe(dataset, options),
            options.modes,
            margin=MARGIN_FOR_CORRECTION if options.position_correction else MARGIN,
            memory_gb=options.memory_gb,
            slices=options.slices,
            slice_distance_m=options.slice_distance_m,
            near_field=options.near_field,
        )

    def with_probe(self, dataset: PtychoDataset, options: _Options) -> PtychoDataset:
        """Return the dataset with a probe to begin with, guessed by `options` where a far-field one is missing."""
        if dataset.probe is not None or dataset.modality != "far-field":
            return dataset
        return replace(dataset, probe=guess_probe(dataset.validate(), self._tried_out(options)))

    def from_near(self, options: _Options, frames: int) -> _Options:
        """Return options that suffice where most of `frames` have been iterated on already: fewer epochs, if any."""
        return options

    @abstractmethod
    def iterate(self, problem: Problem, options: _Options) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at ``problem.start``, as `options` say."""

    def _tried_out(self, options: EngineOptions) -> _Trial:
        return _Trial(self.device, options)


class _Trial:
    """Gives the R-factor that a few epochs of the fast engine reach."""

    def __init__(self, device: str, options: EngineOptions) -> None:
        common = {name: getattr(options, name) for name in ("seed", "threads", "kernels")}
        self._device, self._options = device, FastOptions(epochs=5, modes=1, subpixel=1, **common)

    def __call__(self, problem: Problem) -> float:
        kernels = kernels_for(problem, self._device, self._options.kernels, self._options.threads)
        try:
            return min(state.r_factor for state in annealed(problem, kernels, self._options))
        except ReconstructionError:  # diverged: a start that is no good
            return float(np.inf)
