"""Automatic differentiation: any loss, any optimiser of torch, everything that the forward model has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._base import BaseEngine
from ptycho_bluesky.reconstruction.engines._options import EngineOptions
from ptycho_bluesky.reconstruction.engines._state import EngineState

__all__ = ["AutodiffEngine", "AutodiffOptions", "LearningRates"]


class LearningRates(BaseModel):
    """Steps of the parameters, all of about unit size. The defaults suit Adam and its relatives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    object: float = Field(default=0.02, gt=0, le=100)
    """Of the object's transmission, whose modulus is about 1."""

    probe: float = Field(default=0.02, gt=0, le=100)
    """In units of the probe's largest modulus."""

    positions: float = Field(default=0.2, gt=0, le=100)
    """Object pixels."""

    background: float = Field(default=0.02, gt=0, le=100)
    """Of the background's root, in units of the root of the mean counts of a pixel."""

    opr: float = Field(default=0.02, gt=0, le=100)
    """Of modes and weights of the probe's variation."""


class AutodiffOptions(EngineOptions):
    """Options of the engine ``autodiff``. ``epochs=None`` takes 60.

    Positions are taken as they are, with any fraction of a pixel; ``subpixel=1`` rounds them to whole pixels.
    """

    optimizer: str = "Adam"
    """Any class of ``torch.optim`` that takes dense gradients. ``LBFGS`` uses all frames for each step and the object's
    rate for everything (1 as a rule)."""

    optimizer_options: dict[str, JsonValue] = Field(default_factory=dict)
    """Its further arguments, such as ``{"betas": [0.9, 0.99]}``."""

    learning_rate: LearningRates = LearningRates()
    """At the beginning. The loss is in units in which a rate of 1 is the full step of ePIE for plain SGD."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """``cosine`` lets the rates fall to 0 in the last epoch, so that the noise averages out."""

    loss: Literal["amplitude", "poisson", "intensity"] = "amplitude"
    """Squares of differences of amplitudes, the likelihood of Poisson counts, or squares of differences of counts."""

    batch: int = Field(default=16, ge=1, le=100_000)
    """Frames for each step."""

    probe_start: int = Field(default=1, ge=0)
    """First epoch that updates the probe."""

    position_start: int = Field(default=3, ge=0)
    """First epoch that updates the positions, where these are corrected."""

    total_variation: float = Field(default=0.0, ge=0, le=100)
    """Weight of the object's total variation: 0.01 smooths noise, 1 leaves little else than edges; 0 for none."""


class AutodiffEngine(BaseEngine[AutodiffOptions]):
    """Gradient descent by automatic differentiation, in minibatches, with an optimiser of torch.

    Ghosh, Youssef, Nashed, Huang and Jacobsen, Optics Express 26, 28560 (2018); Adam: Kingma and Ba, ICLR 2015.
    """

    name = "autodiff"
    options_type = AutodiffOptions
    supports: ClassVar[frozenset[str]] = frozenset({"position_correction", "background", "opr", "slices"})

    def iterate(self, problem: Problem, options: AutodiffOptions) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at ``problem.start``.

        Raises
        ------
        ReconstructionError
            When torch has no such optimiser or it refuses its options, or a number is not finite.
        """
        if options.kernels == "numba":
            raise ReconstructionError(
                f"engine {self.name!r} works on kernels 'torch' alone; leave the option 'kernels' out"
            )
        from ptycho_bluesky.reconstruction.engines._descent import descended  # imports torch: two seconds

        yield from descended(problem, options, self.device)
