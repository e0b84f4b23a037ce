"""What the edge process asks of a network: frames in, patches of the object out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["Model", "Patches", "Predictor"]


@dataclass(frozen=True)
class Patches:
    """The object as a network sees it through each frame of a batch.

    Pixel ``(i, j)`` of a patch lies at ``offset + scale * (i, j)`` object pixels from the frame's patch corner.
    """

    phase: npt.NDArray[np.float32]
    """(B, h, w) radians; a constant of each patch is free, as one frame does not fix it."""

    amplitude: npt.NDArray[np.float32] | None
    """(B, h, w) transmission, 1 = nothing in the beam; None from a network that gives phase alone."""

    weight: npt.NDArray[np.float32]
    """(h, w) trust in each pixel, at best the probe's intensity there; not negative, not all zero."""

    scale: float = 1.0
    """Object pixels for each patch pixel."""

    offset: tuple[float, float] = (0.0, 0.0)
    """Place (row, column) of the patch's first pixel, in object pixels from the frame's patch corner."""

    misfit: npt.NDArray[np.float32] | None = None
    """(B,) relative misfit of each patch to its frame by the predictor's own probe (see Misfit); None: not known."""

    confidence: npt.NDArray[np.float32] | None = None
    """(B,) from a network that knows how sure it is: 1 = trust, 0 = not at all; else None."""


class Predictor(Protocol):
    """A network made ready for one probe, pixel size and frame size."""

    def __call__(self, frames: npt.NDArray[np.float32], /) -> Patches:
        """Return the patches of `frames` (B, H, W) counts >= 0, finite, zero frequency in the centre; B varies."""
        ...


@runtime_checkable
class Model(Protocol):
    """A network and its weights, loaded."""

    def for_probe(
        self,
        probe: npt.NDArray[np.complex64] | None,
        pixel_size_m: float | None,
        frame_size: int,
        /,
        *,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> Predictor:
        """Return the predictor for a probe (modes, H, W), or None where it is not known.

        Parameters
        ----------
        probe:
            (modes, H, W), the strongest mode first.
        pixel_size_m:
            Side of an object pixel in metres; None where positions are in object pixels.
        frame_size:
            Side of the square frames, pixels.
        mask:
            (H, W) True = bad pixel, which is 0 in every frame; None where all are good.
        """
        ...
