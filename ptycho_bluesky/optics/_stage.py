"""What a stage does against what is recorded of it: jitter, drift and wrong scales."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

__all__ = ["PositionErrors"]


class PositionErrors(BaseModel):
    """By how much the probe's true place differs from the recorded one; reproducible, point by point.

    ``true = recorded * scale + index * drift_m_per_frame + jitter(index)``
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    jitter_m: float = Field(default=0.0, ge=0)
    """Standard deviation of each point's own error along each axis, metres."""

    drift_m_per_frame: tuple[float, float] = (0.0, 0.0)
    """Steady movement of sample against beam (y, x), metres a frame."""

    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """True length of a recorded metre (y, x): a wrongly calibrated stage."""

    seed: int = Field(default=0, ge=0)
    """Chooses the jitter."""

    def offset_m(self, index: int) -> npt.NDArray[np.float64]:
        """Return the (2,) jitter and drift of frame `index`, metres; the same however often and in what order asked."""
        jitter = np.random.default_rng((self.seed, index)).normal(0.0, self.jitter_m, 2) if self.jitter_m else 0.0
        return np.asarray(index * np.asarray(self.drift_m_per_frame) + jitter)

    def true_position(self, recorded_m: npt.ArrayLike, index: int) -> npt.NDArray[np.float64]:
        """Return where the probe (2,) really is at frame `index` that is recorded at `recorded_m` (2,); both metres."""
        return np.asarray(np.asarray(recorded_m, np.float64) * self.scale + self.offset_m(index))

    def true_positions(self, recorded_m: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return where the probe really is for recorded positions (N, 2) in their order, metres."""
        recorded = np.asarray(recorded_m, np.float64)
        return np.asarray(recorded * self.scale + np.array([self.offset_m(i) for i in range(len(recorded))]))
