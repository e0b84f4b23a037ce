"""The ML engine: conjugate gradients down the likelihood of all frames at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._base import BaseEngine
from ptycho_bluesky.reconstruction.engines._options import EngineOptions
from ptycho_bluesky.reconstruction.engines._state import EngineState

__all__ = ["MlEngine", "MlOptions"]


class MlOptions(EngineOptions):
    """Options of the ML engine. The defaults suit a polish of what another engine has found.

    ``epochs=None`` takes 40; each visits all frames twice, for the gradient and for the step.
    """

    noise: Literal["gaussian", "poisson"] = "gaussian"
    """Of the counts: ``gaussian`` for their roots (robust), or ``poisson``, for few counts."""

    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Frames that are worked on together; None for 16 on a CPU, 64 elsewhere. The result does not depend on it."""

    damping: float = Field(default=0.02, gt=0, le=1)
    """Of places with little light, in units of the brightest one: small values learn the rim of the field faster."""

    smooth: float = Field(default=0.0, ge=0, le=20)
    """Blur of the object's gradient (standard deviation of a Gaussian, object pixels): coarse features move first. 0
    for none."""


class MlEngine(BaseEngine[MlOptions]):
    """Maximum likelihood by nonlinear conjugate gradients (Polak-Ribiere, with restarts).

    Thibault and Guizar-Sicairos, New J. Phys. 14, 063004 (2012), preconditioned by the illumination; the step follows
    from the second derivative along the direction. No epoch raises the loss: a step that does is halved, and taken back
    where that does not help.
    """

    name = "ml"
    options_type = MlOptions
    supports: ClassVar[frozenset[str]] = frozenset({"background"})

    def iterate(self, problem: Problem, options: MlOptions) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at ``problem.start``; end early where no step lowers the loss."""
        from ptycho_bluesky.reconstruction.engines._conjugate import conjugate_gradients  # imports torch: two seconds

        yield from conjugate_gradients(problem, options, self.device)
