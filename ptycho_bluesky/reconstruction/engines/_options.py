"""Options that every engine has."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, Field

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.optics import NearFieldMethod
from ptycho_bluesky.reconstruction.kernels import Backend, DataType

__all__ = ["EngineOptions", "refuse_unsupported"]


class EngineOptions(BaseModel):
    """Options that every engine has; each engine's own options add to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int | None = Field(default=None, ge=1, le=100_000)
    """Passes over all frames; None for the engine's own number."""

    modes: int = Field(default=3, ge=1, le=20)
    """Incoherent probe modes. One suits a coherent beam and a still sample; each costs as much time as the first."""

    position_correction: bool = False
    """Refine the positions: encoders, drift, a rotated or scaled stage."""

    background: bool = False
    """Estimate counts that are no diffraction (parasitic scatter, dark counts), one pattern for all frames."""

    opr: int = Field(default=0, ge=0, le=20)
    """Probe variation from frame to frame (orthogonal probe relaxation): number of variation modes; 0 for none."""

    slices: int = Field(default=1, ge=1, le=100)
    """Slices of a thick object along the beam; 1 for a thin one."""

    slice_distance_m: float | None = Field(default=None, gt=0)
    """Between neighbouring slices, metres; needed with 2 slices or more."""

    near_field: NearFieldMethod = "fresnel"
    """How a near field propagates: ``fresnel`` (paraxial) or ``angular-spectrum`` (large angles)."""

    subpixel: int = Field(default=2, ge=1, le=8)
    """Positions are rounded to 1/subpixel of a pixel; 1 rounds to whole pixels."""

    memory_gb: float | None = Field(default=None, gt=0)
    """Most memory for amplitudes, GB of 1e9 bytes, beyond which they are streamed; None for a tenth of what is free."""

    seed: int = Field(default=0, ge=0)
    """Of the order of frames."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None for the setting ``threads``. Results differ a little from number to number."""

    kernels: Backend = "auto"
    """``auto`` (numba on a CPU, raw CUDA kernels on a GPU with CuPy, else torch), ``numba`` or ``torch``."""

    data_type: DataType = "auto"
    """Of the frames in a GPU's memory, for engine ``fast``: ``auto`` (counts as ``uint16`` where they
    are whole numbers up to 65534, which loses nothing, else ``float32``), one of these, or amplitudes as ``float16``,
    whose rounding stays below the noise up to about a million counts a pixel."""


def refuse_unsupported(engine: str, options: EngineOptions, supported: Collection[str]) -> None:
    """Raise where options ask for physics that an engine does not have.

    Parameters
    ----------
    engine:
        Its name.
    options:
        What is asked for.
    supported:
        Which of ``position_correction``, ``background``, ``opr`` and ``slices`` the engine has.

    Raises
    ------
    ReconstructionError
        Naming all that is asked for in vain.
    """
    neutral = {"position_correction": False, "background": False, "opr": 0, "slices": 1}
    asked = [name for name, value in neutral.items() if getattr(options, name) != value and name not in supported]
    if asked:
        has = ", ".join(sorted(supported)) or "none of these"
        raise ReconstructionError(
            f"engine {engine!r} does not have {', '.join(asked)} (it has: {has}); leave that out, or take "
            "engine 'auto', 'lsqml' or 'autodiff'"
        )
    if options.slices > 1 and options.slice_distance_m is None:
        raise ReconstructionError(f"{options.slices} slices need slice_distance_m, the metres between two of them")
