"""The likelihood of all frames, its slope, and its curvature along a direction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction.engines._batch_model import BatchProblem, ModelTensors
from ptycho_bluesky.reconstruction.kernels._waves import Noise

__all__ = ["TINY", "Likelihood", "Point", "Slope", "derivatives", "loss"]


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


def loss(intensity: torch.Tensor, amplitude: torch.Tensor, noise: Noise) -> torch.Tensor:
    """Return the negative logarithm of the likelihood of frames (B, H, W), up to constants, summed; float64.

    Gaussian: ``sum (sqrt(I) - a)**2``; Poisson: ``sum I - a**2 log I``, as far as `I` differs from ``a**2``: Thibault
    and Guizar-Sicairos, New J. Phys. 14, 063004 (2012), sections 2.1 and 2.2. Bad pixels (negative amplitude) count for
    nothing.
    """
    good, amplitude = amplitude >= 0, amplitude.clamp_min(0)
    if noise == "gaussian":
        each = (intensity.sqrt() - amplitude) ** 2
    else:
        counts = amplitude**2
        each = intensity - counts - torch.xlogy(counts, intensity / counts.clamp_min(TINY))
    return torch.where(good, each, 0).sum(dtype=torch.float64)


TINY = 1e-8
"""Counts below which an intensity is not divided by."""


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
    ) -> None:
        self._problem, self._noise, self._damping, self._waves = problem, noise, damping, problem.waves
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
        tensors, waves, noise = self._at(point), self._waves, self._noise
        total = torch.zeros(2, dtype=torch.float64, device=point.object.device)
        numerator, weight = torch.zeros_like(point.object), torch.zeros_like(point.object.real)
        gradient, bright = torch.zeros_like(tensors.copies), torch.zeros_like(tensors.copies[:, 0].real)
        excess, certainty = (torch.zeros_like(bright[0]) for _ in range(2))
        for frames, amplitude in self._problem.batches():
            light = tensors.light(frames)
            there = waves.to_detector(tensors.exit_waves(light))
            intensity = tensors.intensity(there)
            if self._with_background:
                good, counts = amplitude >= 0, intensity.clamp_min(TINY)
                first, second = derivatives(counts, amplitude, noise, expected=True)
                excess += torch.where(good, first, 0).sum(dim=0)
                certainty += torch.where(good, second, 0).sum(dim=0)
            seen = tensors.misfit(there, amplitude)  # before the projection, which may write over the waves
            there, _ = waves.project(there, amplitude, tensors.pedestal, noise)
            total += torch.stack([loss(intensity, amplitude, noise), seen])
            residual = waves.to_sample(there) - tensors.exit_waves(light)
            waves.add_object(numerator, weight, residual, light.probes, light.groups, light.corners)
            waves.add_probe(gradient, bright, residual, tensors.object, tensors.of_frame[frames], light.corners)
        gradient, bright = tensors.gather(gradient), tensors.gather_weight(bright)[:, None]
        scale = 1 if noise == "gaussian" else 2  # of the curvature, near the solution
        to_object = self._blurred(numerator, scale * (weight + self._damping * weight.amax()))
        to_probe = gradient / (scale * (bright + self._damping * bright.amax()))
        to_background = None
        if point.background is not None:
            free = (point.background > 0) | (excess < 0)
            to_background = torch.where(free, -excess / certainty.clamp_min(TINY), 0)
        return Slope(
            float(total[0]),
            float(total[1]) / self._problem.problem.total,
            Point(-numerator, -gradient, None if point.background is None else excess),
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
        tensors, waves = self._at(point), self._waves
        probes = tensors.spread(direction.probe)
        total = torch.zeros(2, dtype=torch.float64, device=point.object.device)
        for frames, amplitude in self._problem.batches():
            light, mine = tensors.light(frames), tensors.of_frame[frames]
            there = waves.to_detector(tensors.exit_waves(light))
            move = waves.exit_waves(direction.object, light.probes, light.groups, light.corners)
            move += waves.exit_waves(point.object, probes, mine, light.corners)
            move = waves.to_detector(move)
            rises = 2 * (there.conj() * move).real.sum(dim=1)
            rises = rises if direction.background is None else rises + direction.background
            bends = 2 * (move.real**2 + move.imag**2).sum(dim=1)
            counts, good = tensors.intensity(there).clamp_min(TINY), amplitude >= 0
            first, second = derivatives(counts, amplitude, self._noise, expected=False)
            _, usual = derivatives(counts, amplitude, self._noise, expected=True)
            exact, expected = second * rises**2 + first * bends, usual * rises**2
            total += torch.stack([torch.where(good, v, 0).sum(dtype=torch.float64) for v in (exact, expected)])
        return max(float(total[0]), float(total[1]) / 2, 1e-30) / 2


def derivatives(
    intensity: torch.Tensor, amplitude: torch.Tensor, noise: Noise, expected: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return first and second derivatives of the loss by the intensity; `expected`: the second one's mean."""
    if noise == "gaussian":
        ratio, usual = amplitude / intensity.sqrt(), 1 / (2 * intensity)
    else:
        ratio, usual = amplitude**2 / intensity, 1 / intensity
    return 1 - ratio, usual if expected else usual * ratio
