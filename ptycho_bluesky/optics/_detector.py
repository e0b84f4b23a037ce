"""What a photon-counting detector makes of the expected photons: noise, bad pixels, gaps, saturation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

__all__ = ["DetectorModel"]


class DetectorModel(BaseModel):
    """A pixel detector that counts photons; the same model and seed have the same bad pixels every time.

    Shot noise is always there. The defaults add nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    background: float = Field(default=0.0, ge=0)
    """Mean counts a pixel and frame from stray light, everywhere the detector is sensitive."""

    saturation: int | None = Field(default=None, ge=1, le=2**32 - 1)
    """Highest count of a pixel; more photons read as this. None: nothing below 2**32 - 1."""

    dead_fraction: float = Field(default=0.0, ge=0, le=0.5)
    """Share of pixels that always read 0."""

    hot_fraction: float = Field(default=0.0, ge=0, le=0.5)
    """Share of pixels that count `hot_counts` on the average, whatever the light."""

    hot_counts: float = Field(default=10_000.0, ge=0, le=1e9)
    """Mean counts of a hot pixel in a frame."""

    modules: tuple[PositiveInt, PositiveInt] = (1, 1)
    """Modules down and across the frame."""

    gap_px: int = Field(default=0, ge=0)
    """Pixels between two modules, which read 0."""

    beamstop_px: float = Field(default=0.0, ge=0)
    """Diameter of a beamstop about the frame's centre; its pixels count as bad. 0 for none."""

    beamstop_transmission: float = Field(default=0.0, ge=0, le=1)
    """Share of the photons that pass the beamstop."""

    seed: int = Field(default=0, ge=0)
    """Chooses which pixels are dead or hot."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 where `saturation` fits in 16 bits, else uint32."""
        return np.dtype(np.uint16 if self.saturation is not None and self.saturation < 2**16 else np.uint32)

    @property
    def limit(self) -> int:
        """Highest count that a frame can hold."""
        return 2**32 - 1 if self.saturation is None else self.saturation

    def mask(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return (H, W), True = bad: dead or hot, in a gap, or behind the beamstop. Saturation differs by frame."""
        dead, hot = self._bad_pixels(shape)
        return np.asarray(dead | hot | self._gaps(shape) | self._behind_beamstop(shape))

    def measure(self, expected: npt.ArrayLike, rng: np.random.Generator) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return counts (..., H, W), of :attr:`dtype`, for `expected` photons (..., H, W).

        The beamstop and bad pixels stand in the detector's own orientation; give frames as it sees them.
        """
        mean = np.asarray(expected, dtype=np.float64)
        shape = (mean.shape[-2], mean.shape[-1])
        if self.beamstop_px > 0:
            mean = np.where(self._behind_beamstop(shape), mean * self.beamstop_transmission, mean)
        if self.background > 0:
            mean = mean + self.background
        dead, hot = self._bad_pixels(shape)
        blind = dead | self._gaps(shape)
        if hot.any() or blind.any():
            mean = np.where(blind, 0.0, np.where(hot, self.hot_counts, mean))
        return np.minimum(rng.poisson(mean), self.limit).astype(self.dtype)

    def _bad_pixels(self, shape: tuple[int, int]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        lot = np.random.default_rng(self.seed).random(shape)
        dead = lot < self.dead_fraction
        return dead, (lot >= self.dead_fraction) & (lot < self.dead_fraction + self.hot_fraction)

    def _gaps(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        gaps = np.zeros(shape, bool)
        for axis, (size, count) in enumerate(zip(shape, self.modules, strict=True)):
            lines = np.swapaxes(gaps, 0, axis)  # a view: writing to it writes to the mask
            for k in range(1, count):
                middle = size * k / count
                first = round(middle - self.gap_px / 2)
                lines[max(0, first) : first + self.gap_px] = True
        return gaps

    def _behind_beamstop(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        y, x = (np.arange(size) - size // 2 for size in shape)
        return np.asarray(np.hypot(y[:, None], x[None]) < self.beamstop_px / 2)
