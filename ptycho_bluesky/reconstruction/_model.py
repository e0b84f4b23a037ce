"""What is reconstructed, at one moment: object, probe, positions and whatever else is refined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ComplexArray", "Model", "Variation"]

ComplexArray = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Variation:
    """Orthogonal probe relaxation: the first mode of frame k is ``probe[0] + sum_r weights[k, r] * modes[r]``.

    Odstrcil et al., Optics Express 24, 8360 (2016).
    """

    modes: ComplexArray
    """(rank, H, W) of unit mean power on the probe's scale: ``sum |modes[r]|**2 = sum |probe[0]|**2``."""

    weights: npt.NDArray[np.float32]
    """(N, rank)."""


@dataclass(frozen=True)
class Model:
    """Object, probe and the rest of what an engine moves. Never written to: an epoch returns a new one."""

    object: ComplexArray
    """(slices, Y, X)."""

    probe: ComplexArray
    """(sets, modes, H, W); ``sum |probe[s]|**2`` is on the scale of the counts. One set but where scans with probes of
    their own share an object (``Problem.sets`` tells the set of each frame)."""

    corners: npt.NDArray[np.float64]
    """(N, 2) corner of each frame's patch, object pixels, as refined so far."""

    background: npt.NDArray[np.float32] | None = None
    """(H, W) counts a frame that are no diffraction, zero frequency at the corner; None where not looked for."""

    variation: Variation | None = None
    """How the probe changes from frame to frame; None where it does not."""

    def is_finite(self) -> bool:
        """Tell whether every number is finite."""
        arrays: list[npt.NDArray[Any]] = [self.object, self.probe, self.corners]
        arrays += [] if self.background is None else [self.background]
        arrays += [] if self.variation is None else [self.variation.modes, self.variation.weights]
        return all(bool(np.isfinite(array).all()) for array in arrays)
