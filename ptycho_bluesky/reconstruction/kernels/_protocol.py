"""The small set of kernels on which every engine is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import Model

__all__ = ["DataType", "Evaluator", "Kernels", "Steps", "Swept"]

DataType = Literal["auto", "float32", "float16", "uint16"]
"""Of the frames on a GPU: amplitudes, or counts (uint16), whose root is taken where they are used."""


@dataclass(frozen=True)
class Steps:
    """How far a sweep goes (see :class:`FastOptions`)."""

    object: float
    probe: float
    alpha_object: float
    alpha_probe: float
    find_shifts: bool = False
    """Whether to find how far each frame's position is off as well."""


@dataclass(frozen=True)
class Swept:
    """What a sweep over all frames brings."""

    model: Model
    error: float
    """R-factor as each frame saw it just before it moved anything."""

    shifts: npt.NDArray[np.float64] | None = None
    """(N, 2) pixels by which each corner should move to explain its frame better, to first order; None where not asked
    for."""


class Evaluator(Protocol):
    """Tells how well a model explains the frames."""

    name: str
    """For logs and provenance."""

    device: str
    """``"cpu"``, ``"cuda"``, ``"cuda:1"``..."""

    def r_factor(self, model: Model, groups: ProbeGroups) -> float:
        """Return the R-factor of `model` over all frames, with the probes of `groups` and the best global scale."""
        ...


class Kernels(Evaluator, Protocol):
    """Exit waves, modulus projection with error, update of object and probe: one sweep of them over all frames."""

    def sweep(self, model: Model, groups: ProbeGroups, steps: Steps, rng: np.random.Generator) -> Swept:
        """Update the model with every frame once, by `steps`, with the probes of `groups`, in an order from `rng`."""
        ...
