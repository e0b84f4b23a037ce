"""The sums over all frames that a likelihood is made of, in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ptycho_bluesky.reconstruction.engines._batch_model import BatchProblem, ModelTensors
from ptycho_bluesky.reconstruction.kernels._waves import Noise

__all__ = ["TINY", "BatchSums", "Direction", "SlopeSums", "Sums", "derivatives", "loss"]

TINY = 1e-8
"""Counts below which an intensity is not divided by."""


@dataclass(frozen=True)
class SlopeSums:
    """The loss and its slope at a model."""

    loss: float
    misfit: float
    """``sum |modulus - amplitude|``"""

    object: torch.Tensor
    """(Y, X) ``sum conj(P) residual``, the negative derivative by the conjugate of the object."""

    object_weight: torch.Tensor
    """(Y, X) ``sum |P|**2``"""

    probes: torch.Tensor
    """(G, M, H, W) ``sum conj(O) residual`` of each group."""

    probes_weight: torch.Tensor
    """(G, H, W) ``sum |O|**2``"""

    excess: torch.Tensor | None
    """(H, W) first derivatives by the background; None where it is not looked for."""

    certainty: torch.Tensor | None
    """(H, W) second ones, in the mean over the noise."""


@dataclass(frozen=True)
class Direction:
    """Along which a curvature is asked for: object (Y, X), probes (G, M, H, W) of groups, background (H, W) or None."""

    object: torch.Tensor
    probes: torch.Tensor
    background: torch.Tensor | None


class Sums(Protocol):
    """Sums over all frames."""

    def slope(self, at: ModelTensors, noise: Noise, with_background: bool) -> SlopeSums:
        """Return the loss and its slope; that by the background only where it is looked for."""
        ...

    def curvature(self, at: ModelTensors, direction: Direction, noise: Noise) -> tuple[float, float]:
        """Return the second derivative along a direction, waves linear in the step: exact, and as on average."""
        ...


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


def derivatives(
    intensity: torch.Tensor, amplitude: torch.Tensor, noise: Noise, expected: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return first and second derivatives of the loss by the intensity; `expected`: the second one's mean."""
    if noise == "gaussian":
        ratio, usual = amplitude / intensity.sqrt(), 1 / (2 * intensity)
    else:
        ratio, usual = amplitude**2 / intensity, 1 / intensity
    return 1 - ratio, usual if expected else usual * ratio


class BatchSums:
    """:class:`Sums` by batches in torch: on any device, and with probes that vary."""

    def __init__(self, problem: BatchProblem) -> None:
        self._problem, self._waves = problem, problem.waves

    def slope(self, at: ModelTensors, noise: Noise, with_background: bool) -> SlopeSums:
        """See :class:`Sums`."""
        waves = self._waves
        total = torch.zeros(2, dtype=torch.float64, device=at.object.device)
        numerator, weight = torch.zeros_like(at.object), torch.zeros_like(at.object.real)
        gradient, bright = torch.zeros_like(at.copies), torch.zeros_like(at.copies[:, 0].real)
        excess, certainty = (torch.zeros_like(bright[0]) for _ in range(2))
        for frames, amplitude in self._problem.batches():
            light = at.light(frames)
            there = waves.to_detector(at.exit_waves(light))
            intensity = at.intensity(there)
            if with_background:
                good, counts = amplitude >= 0, intensity.clamp_min(TINY)
                first, second = derivatives(counts, amplitude, noise, expected=True)
                excess += torch.where(good, first, 0).sum(dim=0)
                certainty += torch.where(good, second, 0).sum(dim=0)
            seen = at.misfit(there, amplitude)  # before the projection, which may write over the waves
            there, _ = waves.project(there, amplitude, at.pedestal, noise)
            total += torch.stack([loss(intensity, amplitude, noise), seen])
            residual = waves.to_sample(there) - at.exit_waves(light)
            waves.add_object(numerator, weight, residual, light.probes, light.groups, light.corners)
            waves.add_probe(gradient, bright, residual, at.object, at.of_frame[frames], light.corners)
        found = (excess, certainty) if with_background else (None, None)
        return SlopeSums(float(total[0]), float(total[1]), numerator, weight, gradient, bright, *found)

    def curvature(self, at: ModelTensors, direction: Direction, noise: Noise) -> tuple[float, float]:
        """See :class:`Sums`."""
        waves, total = self._waves, torch.zeros(2, dtype=torch.float64, device=at.object.device)
        for frames, amplitude in self._problem.batches():
            light, mine = at.light(frames), at.of_frame[frames]
            there = waves.to_detector(at.exit_waves(light))
            move = waves.exit_waves(direction.object, light.probes, light.groups, light.corners)
            move += waves.exit_waves(at.object, direction.probes, mine, light.corners)
            move = waves.to_detector(move)
            rises = 2 * (there.conj() * move).real.sum(dim=1)
            rises = rises if direction.background is None else rises + direction.background
            bends = 2 * (move.real**2 + move.imag**2).sum(dim=1)
            counts, good = at.intensity(there).clamp_min(TINY), amplitude >= 0
            first, second = derivatives(counts, amplitude, noise, expected=False)
            _, usual = derivatives(counts, amplitude, noise, expected=True)
            exact, expected = second * rises**2 + first * bends, usual * rises**2
            total += torch.stack([torch.where(good, v, 0).sum(dtype=torch.float64) for v in (exact, expected)])
        return float(total[0]), float(total[1])
