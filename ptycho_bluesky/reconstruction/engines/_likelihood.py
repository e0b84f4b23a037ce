"""The likelihood of all frames, its slope, and its curvature along a direction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction.engines._batch_model import BatchProblem, ModelTensors
from ptycho_bluesky.reconstruction.engines._sums import TINY, BatchSums, Direction, Sums
from ptycho_bluesky.reconstruction.kernels._waves import Noise

__all__ = ["Likelihood", "Point", "Slope"]


@dataclass(frozen=True)
class Point:
    """Where a search stands, or a direction: object (Y, X), probe (sets, M, H, W), background (H, W) or None."""

    object: torch.Tensor
    probe: torch.Tensor
    background: torch.Tensor | None

    def dot(self, other: Point) -> float:
        """Return the real inner product; the background counts half: a complex number stands for two derivatives."""
        total = (self.object.conj() * other.object).real.sum(dtype=torch.float64)
        total += (self.probe.conj() * other.probe).real.sum(dtype=torch.float64)
        if self.background is not None and other.background is not None:
            total += (self.background * other.background).sum(dtype=torch.float64) / 2
        return float(total)

    def plus(self, factor: float, other: Point) -> Point:
        """Return ``self + factor * other``."""
        background = self.background
        if background is not None and other.background is not None:
            background = background + factor * other.background
        return Point(self.object + factor * other.object, self.probe + factor * other.probe, background)


@dataclass(frozen=True)
class Slope:
    """The loss at a point, and the way down."""

    loss: float
    r_factor: float
    gradient: Point
    """Derivatives by the conjugate of complex numbers, and by the background."""

    downhill: Point
    """The negative gradient, preconditioned."""


class Likelihood:
    """The loss as a function of object, probe and background; corners and a variation stay what they are.

    Parameters
    ----------
    problem:
        With the frames.
    model, groups:
        Where the search begins.
    noise:
        Of the counts.
    damping:
        Of the preconditioner, in units of its largest value.
    smooth:
        Blur of the object's downhill direction, pixels.
    with_background:
        Whether the model's background is looked for.
    sums:
        Over all frames; None for those in torch.
    """

    def __init__(
        self,
        problem: BatchProblem,
        model: Model,
        groups: ProbeGroups,
        noise: Noise,
        damping: float,
        smooth: float,
        with_background: bool,
        sums: Sums | None = None,
    ) -> None:
        self._noise, self._damping, self._total = noise, damping, problem.problem.total
        self._sums = sums or BatchSums(problem)
        self._tensors = ModelTensors(problem, model, groups, problem.floor(noise))
        self._with_background = with_background
        self._blur = None
        if smooth:
            rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in model.object.shape[1:])
            blur = torch.exp(-2 * (torch.pi * smooth) ** 2 * (rows[:, None] ** 2 + columns**2))
            self._blur = problem.tensor(blur.numpy())
        background = self._tensors.background if with_background else None
        self.start = Point(self._tensors.object, self._tensors.probe, background)

    def model(self, point: Point) -> Model:
        """Return the model at a point."""
        return self._at(point).model()

    def moved(self, point: Point, step: float, direction: Point) -> Point:
        """Return the point a step further on; no background falls below zero."""
        there = point.plus(step, direction)
        return there if there.background is None else replace(there, background=there.background.clamp_min(0))

    def _at(self, point: Point) -> ModelTensors:
        tensors = self._tensors
        tensors.object, tensors.probe = point.object, point.probe
        tensors.background = tensors.background if point.background is None else point.background
        tensors.spread_probes()
        return tensors

    @torch.inference_mode()
    def slope(self, point: Point) -> Slope:
        """Return the loss and its gradient over all frames."""
        tensors = self._at(point)
        sums = self._sums.slope(tensors, self._noise, self._with_background)
        gradient, bright = tensors.gather(sums.probes), tensors.gather_weight(sums.probes_weight)[:, None]
        scale = 1 if self._noise == "gaussian" else 2  # of the curvature, near the solution
        weight = sums.object_weight
        to_object = self._blurred(sums.object, scale * (weight + self._damping * weight.amax()))
        to_probe = gradient / (scale * (bright + self._damping * bright.amax()))
        to_background = None
        if point.background is not None and sums.excess is not None and sums.certainty is not None:
            free = (point.background > 0) | (sums.excess < 0)
            to_background = torch.where(free, -sums.excess / sums.certainty.clamp_min(TINY), 0)
        return Slope(
            sums.loss,
            sums.misfit / self._total,
            Point(-sums.object, -gradient, sums.excess),
            Point(to_object, to_probe, to_background),
        )

    def _blurred(self, numerator: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return ``numerator / weight``, with a symmetric blur in between, so that it still leads down."""
        if self._blur is None:
            return numerator / weight
        root = weight.sqrt()
        blurred: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(numerator / root) * self._blur)
        return blurred / root

    @torch.inference_mode()
    def curvature(self, point: Point, direction: Point) -> float:
        """Return half the second derivative along a direction, with the waves taken as linear in the step.

        Where it is small or negative, far from the solution, half of what it will be on average there stands in.
        """
        tensors = self._at(point)
        along = Direction(direction.object, tensors.spread(direction.probe), direction.background)
        exact, expected = self._sums.curvature(tensors, along, self._noise)
        return max(exact, expected / 2, 1e-30) / 2
