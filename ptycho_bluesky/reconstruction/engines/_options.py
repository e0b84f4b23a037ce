"""Options that every engine has."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ptycho_bluesky.reconstruction.kernels import Backend

__all__ = ["EngineOptions"]


class EngineOptions(BaseModel):
    """Options that every engine has; each engine's own options add to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int | None = Field(default=None, ge=1, le=100_000)
    """Passes over all frames; None for the engine's own number."""

    modes: int = Field(default=3, ge=1, le=20)
    """Incoherent probe modes. One suits a coherent beam and a still sample; each costs as much time as the first."""

    position_correction: bool = False
    """Refine the positions: encoders, drift, a rotated or scaled stage."""

    subpixel: int = Field(default=2, ge=1, le=8)
    """Positions are rounded to 1/subpixel of a pixel; 1 rounds to whole pixels."""

    memory_gb: float | None = Field(default=None, gt=0)
    """Most memory for amplitudes, GB of 1e9 bytes, beyond which they are streamed; None for 0.4 of what is free."""

    seed: int = Field(default=0, ge=0)
    """Of the order of frames."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None for the setting ``threads``. Results differ a little from number to number."""

    kernels: Backend = "auto"
    """``auto`` (numba on a CPU, else torch), ``numba`` or ``torch``."""
