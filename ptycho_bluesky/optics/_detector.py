"""What a photon-counting detector makes of the expected photons: noise, bad pixels, gaps, saturation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from ptycho_bluesky.errors import DatasetError

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
        pixels = _pixels(self, shape)
        return np.asarray(pixels.blind | pixels.hot | pixels.shaded)

    def measure(self, expected: npt.ArrayLike, rng: np.random.Generator) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return counts (..., H, W), of :attr:`dtype`, for `expected` photons (..., H, W).

        Beamstop, gaps and bad pixels stand in the detector's own orientation; give frames as it sees them. The photons'
        statistics come from `rng`.

        Raises
        ------
        DatasetError
            When `expected` has less than two axes, or is negative, not finite or above 9e18.
        """
        mean = np.asarray(expected, dtype=np.float64)
        if mean.ndim < 2:
            raise DatasetError(f"expected photons have shape {mean.shape}; allowed is (..., H, W)")
        pixels = _pixels(self, (mean.shape[-2], mean.shape[-1]))
        if self.beamstop_px > 0:
            mean = np.where(pixels.shaded, mean * self.beamstop_transmission, mean)
        if self.background > 0:
            mean = mean + self.background
        if pixels.any_bad:
            mean = np.where(pixels.blind, 0.0, np.where(pixels.hot, self.hot_counts, mean))
        try:
            counts = rng.poisson(mean)
        except ValueError:
            low, high = float(np.min(mean)), float(np.max(mean))
            raise DatasetError(
                f"expected photons go from {low} to {high} a pixel; allowed is 0 to 9e18, finite"
            ) from None
        return np.minimum(counts, self.limit).astype(self.dtype)


class _Pixels(NamedTuple):
    """What is special about each pixel (H, W)."""

    blind: npt.NDArray[np.bool_]
    hot: npt.NDArray[np.bool_]
    shaded: npt.NDArray[np.bool_]
    any_bad: bool


@lru_cache(maxsize=8)
def _pixels(detector: DetectorModel, shape: tuple[int, int]) -> _Pixels:
    """Return the special pixels, computed once: a live detector asks at every frame."""
    lot = np.random.default_rng(detector.seed).random(shape)
    blind = lot < detector.dead_fraction
    hot = ~blind & (lot < detector.dead_fraction + detector.hot_fraction)
    for axis, (size, count) in enumerate(zip(shape, detector.modules, strict=True)):
        lines = np.swapaxes(blind, 0, axis)  # a view: writing to it writes to the mask
        for k in range(1, count):
            first = round(size * k / count - detector.gap_px / 2)
            lines[max(0, first) : max(0, first + detector.gap_px)] = True
    y, x = (np.arange(size) - size // 2 for size in shape)
    shaded = np.asarray(np.hypot(y[:, None], x[None]) < detector.beamstop_px / 2)
    return _Pixels(blind, hot & ~blind, shaded, bool(blind.any() or hot.any()))
