"""What batch engines are made of: a few operations on the waves of a batch of frames."""

from __future__ import annotations

from typing import Literal, Protocol

import torch

__all__ = ["Noise", "WaveKernels"]

Noise = Literal["gaussian", "poisson"]
"""Of the counts: their roots have a normal distribution of constant width, or they are Poisson numbers."""


class WaveKernels(Protocol):
    """Operations on the waves of B frames; every tensor lives on :attr:`device`, complex64 and float32.

    obj (Y, X); probes (G, M, H, W), one for each group of frames; groups (B,) int64; corners (B, 2) int64, whole pixels
    inside the object; waves (B, M, H, W); amplitude (B, H, W), zero frequency at the corner, negative = bad pixel.
    """

    name: str
    device: torch.device

    def exit_waves(
        self, obj: torch.Tensor, probes: torch.Tensor, groups: torch.Tensor, corners: torch.Tensor
    ) -> torch.Tensor:
        """Return ``probes[groups] * patches``, a new tensor."""
        ...

    def to_detector(self, waves: torch.Tensor) -> torch.Tensor:
        """Propagate unitarily; may write over `waves`."""
        ...

    def to_sample(self, waves: torch.Tensor) -> torch.Tensor:
        """Propagate back, inverse and adjoint of :meth:`to_detector`; may write over `waves`."""
        ...

    def project(
        self, waves: torch.Tensor, amplitude: torch.Tensor, background: torch.Tensor | None = None,
        noise: Noise = "gaussian",
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Multiply `waves` with the ratio that the data ask for; return them and (B,) ``sum | modulus - amplitude |``.

        With ``modulus = sqrt(sum over modes |wave|**2 + background)`` the ratio is ``amplitude / modulus`` for gaussian
        noise (the projection on the measured modulus) and ``(amplitude / modulus)**2`` for Poisson noise (a step down
        the gradient of the likelihood: Thibault and Guizar-Sicairos, New J. Phys. 14, 063004 (2012)). Bad pixels keep
        the model's value and count for no error. `background` (H, W) is in counts. May write over `waves`.
        """
        ...

    def add_object(
        self, numerator: torch.Tensor, weight: torch.Tensor, waves: torch.Tensor, probes: torch.Tensor,
        groups: torch.Tensor, corners: torch.Tensor,
    ) -> None:  # fmt: skip
        """Add ``sum over modes conj(P) * waves`` to numerator (Y, X) and ``sum over modes |P|**2`` to weight (Y, X)."""
        ...

    def add_probe(
        self, numerator: torch.Tensor, weight: torch.Tensor, waves: torch.Tensor, obj: torch.Tensor,
        groups: torch.Tensor, corners: torch.Tensor,
    ) -> None:  # fmt: skip
        """Add ``conj(O) * waves`` to numerator (G, M, H, W), ``|O|**2`` to weight (G, H, W), frames to their groups."""
        ...

    def shifts(
        self, waves: torch.Tensor, obj: torch.Tensor, probes: torch.Tensor, groups: torch.Tensor, corners: torch.Tensor
    ) -> torch.Tensor:
        """Return (B, 2), by how many pixels each corner should move so that ``P O`` comes closer to ``P O + waves``.

        Least squares, ``waves = s_y P dO/dy + s_x P dO/dx`` with central differences (Odstrcil, Menzel and
        Guizar-Sicairos, Optics Express 26, 3108 (2018), eq. 28, both axes together).
        """
        ...
