"""The published PtychoNN family: convolutional networks from one diffraction pattern to one patch, probe unseen.

Cherukara et al., Applied Physics Letters 117, 044103 (2020); Babu et al., Nature Communications 14, 7059 (2023).
Module names follow the published code, so that its state dicts load key for key.
"""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor, nn

__all__ = ["PtychoNN", "PtychoNNPhase"]


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    return [_conv(inputs, outputs), nn.ReLU(), _conv(outputs, outputs), nn.ReLU(), nn.MaxPool2d(2)]


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    layers = [_conv(inputs, outputs), nn.ReLU(), _conv(outputs, outputs), nn.ReLU()]
    return [*layers, nn.Upsample(scale_factor=2, mode="bilinear")]


class PtychoNNPhase(nn.Module):
    """The small phase-only network of APS 26-ID (2023): 0.73 million weights, raw counts in, zero frequency centred.

    Parameters
    ----------
    width:
        Channels of the first stage; the other three have twice as many each.
    """

    frame_size = 128
    """Side of the frames it was trained on, pixels."""

    heads = ("phase",)
    """Outputs, in order."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        n = width
        self.encoder = nn.Sequential(*_down(1, n), *_down(n, 2 * n), *_down(2 * n, 4 * n), *_down(4 * n, 8 * n))
        self.decoder2 = nn.Sequential(
            *_up(8 * n, 8 * n), *_up(8 * n, 4 * n), *_up(4 * n, 2 * n), *_up(2 * n, n), _conv(n, 1), nn.Tanh()
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the phase (B, 1, H, W), radians, of frames (B, 1, H, W); there is no amplitude."""
        return cast(Tensor, self.decoder2(self.encoder(frames))) * math.pi, None


class PtychoNN(nn.Module):
    """The two-headed network of 2020 in its PyTorch form: amplitude by sigmoid, phase by pi * tanh.

    Parameters
    ----------
    width:
        Channels of the first of three stages; the published one has 32.
    """

    frame_size = 64
    """Side of the frames it was trained on, pixels."""

    heads = ("phase", "amplitude")
    """Outputs, in order."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        n = width
        self.encoder = nn.Sequential(*_down(1, n), *_down(n, 2 * n), *_down(2 * n, 4 * n))
        self.decoder1 = nn.Sequential(
            *_up(4 * n, 4 * n), *_up(4 * n, 2 * n), *_up(2 * n, 2 * n), _conv(2 * n, 1), nn.Sigmoid()
        )
        self.decoder2 = nn.Sequential(
            *_up(4 * n, 4 * n), *_up(4 * n, 2 * n), *_up(2 * n, 2 * n), _conv(2 * n, 1), nn.Tanh()
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return phase, radians, and amplitude, each (B, 1, H, W), of frames (B, 1, H, W)."""
        code = self.encoder(frames)
        return cast(Tensor, self.decoder2(code)) * math.pi, cast(Tensor, self.decoder1(code))
