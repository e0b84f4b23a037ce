"""The small set of kernels on which every engine is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ptycho_bluesky.reconstruction._problem import Model, Subpixel

__all__ = ["Kernels", "Steps"]


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
