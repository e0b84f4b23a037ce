"""What an engine tells after each epoch, and what an engine is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.kernels import Evaluator

__all__ = ["Engine", "EngineState"]


@dataclass(frozen=True)
class EngineState:
    """A reconstruction after `epoch` of `epochs` epochs: complete, and usable as a result.

    Its arrays are never written to again: keep them, or hand them to another thread, without a copy.
    """

    epoch: int
    """Epochs done."""

    epochs: int
    """Epochs asked for; 0 while frames still arrive and their number is not known."""

    r_factor: float
    """Seen by the frames of the last epoch just before each was used: an upper bound of the model's own."""

    seconds: float
    """Since the engine began to iterate."""

    model: Model
    """Object, probe, positions and whatever else is refined."""

    problem: Problem
    """What they belong to: grid, corners, propagator."""

    kernels: Evaluator
    """The implementation at work."""

    groups: ProbeGroups
    """How positions are rounded."""

    message: str = ""
    """What a user should know of this epoch, such as a step that was halved; empty as a rule."""

    @property
    def object(self) -> npt.NDArray[np.complex64]:
        """(slices, Y, X) on ``problem.grid``."""
        return self.model.object

    @property
    def probe(self) -> npt.NDArray[np.complex64]:
        """(modes, H, W), strongest first; the first where scans have probes of their own."""
        return np.asarray(self.model.probe[0])

    def current_r_factor(self) -> float:
        """Compute the R-factor of this very model over all frames, with the best global scale; half an epoch's work."""
        return self.kernels.r_factor(self.model, self.groups)


class Engine(Protocol):
    """A generator of states; stop at any of them, the last one is the result."""

    name: str
    options_type: type[BaseModel]

    def run(self, dataset: PtychoDataset, options: BaseModel | None = None) -> Iterator[EngineState]:
        """Reconstruct a dataset, one epoch for each state; `options` of the engine's own type, None for defaults."""
        ...
