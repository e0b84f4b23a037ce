"""Reconstruction: what an engine returns, a file holds and the catalogue registers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment._geometry import Modality

__all__ = ["Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    """The result of a reconstruction, with its provenance."""

    object: npt.NDArray[np.complex64] = field(repr=False)
    """(slices, Y, X) complex transmission of the sample."""

    probe: npt.NDArray[np.complex64] = field(repr=False)
    """(modes, H, W), strongest mode first; ``sum |probe|**2`` is the mean number of photons in a frame."""

    positions: npt.NDArray[np.float64] = field(repr=False)
    """(N, 2) (row, column) as refined, in metres, or in object pixels where ``pixel_size_m`` is None."""

    coverage: npt.NDArray[np.float32] = field(repr=False)
    """(Y, X) illumination of each object pixel, 1 at the most; ``coverage > 0.1`` is the scanned field."""

    origin: tuple[float, float]
    """Position (row, column) whose patch begins at object pixel (0, 0)."""

    pixel_size_m: float | None
    """Side of an object pixel in metres; None for pixel units."""

    errors: npt.NDArray[np.float64] = field(repr=False)
    """(epochs,) R-factor seen during each epoch."""

    r_factor: float
    """R-factor of the final result over all frames."""

    phase_contrast_rad: float
    """p99 - p1 of the phase inside the scanned field, radians."""

    engine: str
    """Name of the engine."""

    modality: Modality = "far-field"
    """Far or near field."""

    parameters: dict[str, Any] = field(default_factory=dict)
    """The engine's options, JSON values only."""

    provenance: dict[str, Any] = field(default_factory=dict)
    """raw_uid, job_id, software versions, host, device, ranks, timings: JSON values only."""

    opr_modes: npt.NDArray[np.complex64] | None = field(default=None, repr=False)
    """(rank, H, W) by which the first probe mode varies (orthogonal probe relaxation); None where it does not."""

    opr_weights: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """(N, rank): the first mode of frame k is ``probe[0] + sum_r opr_weights[k, r] * opr_modes[r]``."""

    background: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """(H, W) counts a frame that are no diffraction, zero frequency in the centre; None where not looked for."""

    uncertainty: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """(Y, X) one standard deviation of the phase, radians, NaN where not known; None where not estimated."""

    @property
    def field_of_view(self) -> npt.NDArray[np.bool_]:
        """(Y, X) True where the sample was illuminated well enough to be judged."""
        return self.coverage > 0.1

    @property
    def phase(self) -> npt.NDArray[np.float32]:
        """(Y, X) phase of the first slice in radians, its mean over the scanned field 0, NaN outside it."""
        inside = self.field_of_view
        first = self.object[0]
        mean = first[inside].mean() if inside.any() else np.complex64(1)
        phase = np.angle(first * np.exp(-1j * np.angle(mean))).astype(np.float32)
        return np.where(inside, phase, np.float32(np.nan))

    @property
    def amplitude(self) -> npt.NDArray[np.float32]:
        """(Y, X) amplitude of the first slice, NaN outside the scanned field."""
        return np.where(self.field_of_view, np.abs(self.object[0]), np.float32(np.nan)).astype(np.float32)
