"""What a training lowers, and how its network is judged."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["amplitude_error", "light_of", "phase_agreement", "weighted_error"]

DIM = 0.05
"""Share of the probe's highest intensity at which a pixel counts half in the loss."""


def light_of(probes: Tensor) -> Tensor:
    """Return the intensity (B, N, N), at most 1, of probes (B, modes, N, N)."""
    intensity = (probes.real**2 + probes.imag**2).sum(1)
    return intensity / intensity.amax((1, 2), keepdim=True)


def weighted_error(obj: Tensor, truth: Tensor, light: Tensor) -> Tensor:
    """Return the mean over frames of the light-weighted mean absolute error of complex patches (B, N, N)."""
    weight = light / (light + DIM)
    wrong = obj - truth
    error = torch.sqrt(wrong.real**2 + wrong.imag**2 + 1e-4)  # an absolute value with a round tip
    return ((weight * error).sum((1, 2)) / weight.sum((1, 2))).mean()


def amplitude_error(obj: Tensor, frames: Tensor, probes: Tensor, good: Tensor) -> Tensor:
    """Return the mean over frames of the relative misfit of amplitudes, 0 to 1: no object needs to be known.

    ``sqrt(sum (s |F(P O)| - sqrt(I))**2 / sum I)``, summed over modes inside ``|.|``, with the best scale s of each
    frame. Amplitudes of counts have an even noise (Anscombe, Biometrika 35, 246, 1948), so each pixel counts the same.

    Parameters
    ----------
    obj:
        (B, N, N) complex patches.
    frames, good:
        (B, N, N) counts, zero frequency in the centre, and where they can be trusted.
    probes:
        (B, modes, N, N).
    """
    far = torch.fft.fftshift(torch.fft.fft2(probes * obj[:, None], norm="ortho"), (-2, -1))
    model = torch.sqrt((far.real**2 + far.imag**2).sum(1) + 1e-12) * good
    measured = torch.sqrt(frames) * good
    model_power, power = (model**2).sum((1, 2)), (measured**2).sum((1, 2)).clamp_min(1e-6)
    explained = (model * measured).sum((1, 2)) ** 2 / (model_power * power).clamp_min(1e-12)
    return torch.sqrt((1 - explained).clamp_min(0) + 1e-6).mean()


def phase_agreement(obj: Tensor, truth: Tensor, light: Tensor) -> float:
    """Return the light-weighted correlation of two patches' phases (B, N, N), the median over frames that show any."""
    share = light / light.sum((1, 2), keepdim=True)

    def centred(patch: Tensor) -> Tensor:
        phase = torch.angle(patch * (share * patch).sum((1, 2), keepdim=True).conj())
        return phase - (share * phase).sum((1, 2), keepdim=True)

    a, b = centred(obj), centred(truth)
    aa, bb, ab = ((share * u * v).sum((1, 2)) for u, v in ((a, a), (b, b), (a, b)))
    telling = bb > 0.02**2
    if not bool(telling.any()):
        return 0.0
    return float((ab / torch.sqrt(aa * bb + 1e-12))[telling].median())
