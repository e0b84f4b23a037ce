"""The LSQML engine: least squares with the best step of each frame, for modes, variation, background and positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._base import BaseEngine
from ptycho_bluesky.reconstruction.engines._options import EngineOptions
from ptycho_bluesky.reconstruction.engines._state import EngineState

__all__ = ["LSQML_EPOCHS", "LsqmlEngine", "LsqmlOptions"]

LSQML_EPOCHS = 40


class LsqmlOptions(EngineOptions):
    """Options of the LSQML engine. The defaults suit a polish of what the fast engine has found.

    ``epochs=None`` takes 40.
    """

    noise: Literal["gaussian", "poisson"] = "gaussian"
    """Of the counts: ``gaussian`` for their roots (robust), or ``poisson``, for few counts."""

    batches: Literal["compact", "sparse"] = "compact"
    """``compact``: neighbours, and the object moves once an epoch, by all frames together, with momentum. ``sparse``:
    frames far apart, and the object moves with each batch: faster from an empty object, noisier in the end."""

    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Frames of a batch; None for 16 on a CPU, 64 elsewhere."""

    step: float = Field(default=1.0, gt=0, le=1)
    """Of object and probe, in units of the best one, until the last third of the epochs."""

    step_end: float = Field(default=0.2, gt=0, le=1)
    """Step of the last epoch, towards which it falls geometrically: the noise of single batches averages out."""

    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Share of an epoch's move that the next one makes again at once (compact batches); 0 for none."""

    damping: float = Field(default=0.05, gt=0, le=1)
    """Of directions where there is little light, in units of the brightest place: small values learn the rim of the
    field faster, and its noise."""

    variation_step: float = Field(default=0.7, gt=0, le=1)
    """Step of the probe's variation, in units of the best one for each frame."""

    background_step: float = Field(default=0.5, gt=0, le=1)
    """Step of the background, in units of the best one for each pixel."""


class LsqmlEngine(BaseEngine[LsqmlOptions]):
    """Least-squares maximum likelihood.

    Odstrcil, Menzel and Guizar-Sicairos, Optics Express 26, 3108 (2018): preconditioned directions of object and probe
    from a batch (eq. 24-25), the best step along both for each frame (eq. 22-23), of which the batch takes the mean;
    probe variation after Odstrcil et al., Optics Express 24, 8360 (2016).
    """

    name = "lsqml"
    options_type = LsqmlOptions
    supports: ClassVar[frozenset[str]] = frozenset({"position_correction", "background", "opr"})

    def iterate(self, problem: Problem, options: LsqmlOptions) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at ``problem.start``.

        Raises
        ------
        ReconstructionError
            When the iteration diverges.
        """
        from ptycho_bluesky.reconstruction.engines._least_squares import least_squares  # imports torch: two seconds

        yield from least_squares(problem, options, self.device)
