"""ProbeViT's layers alone, their input and output laid out as the compiled passes write and read them.

The module itself cuts images into tokens and packs pixels into channels; for a runtime these are copies that cost as
much as a block of the transformer. The passes do them on their way, and the weights are ordered to match.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ptycho_bluesky.inference._vit import ProbeViT

__all__ = ["Refining", "Transforming"]

LANES = 16
"""Images are filled up to a multiple of this: what the passes transpose at once."""


class Transforming(nn.Module):
    """Tokens (B, T, C * p**2) to tokens (B, T, (2 + features) * p**2): ``ProbeViT.correct`` without its shuffles."""

    def __init__(self, network: ProbeViT) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm, self.head = network.embed, network.blocks, network.norm, network.head
        self.position = network.position

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.norm(self.blocks(self.embed(tokens) + self.position))))


class Refining(nn.Module):
    """``ProbeViT.settle`` without its shuffles, channels last.

    From (B, N / f, N / f, f * f * C), C the images filled up to a multiple of 16, ordered by column, row, image, to
    (B, N / f, N / f, 2 * f * f).
    """

    def __init__(self, network: ProbeViT) -> None:
        super().__init__()
        unshuffle, first, *rest, _ = network.refine
        self.factor = cast(int, unshuffle.downscale_factor)
        images, f = network.sizes.features + 9, self.factor
        channels = -(-images // LANES) * LANES
        old = cast(nn.Conv2d, first)
        self.first = nn.Conv2d(f * f * channels, old.out_channels, 3, padding=1)
        with torch.no_grad():
            weight = old.weight.reshape(old.out_channels, images, f, f, 3, 3)
            ordered = torch.zeros(old.out_channels, f, f, channels, 3, 3)
            ordered[:, :, :, :images] = weight.permute(0, 3, 2, 1, 4, 5)
            self.first.weight.copy_(ordered.reshape(self.first.weight.shape))
            self.first.bias = old.bias
        self.rest = nn.Sequential(*rest)
        self.eval()

    def forward(self, packed: Tensor) -> Tensor:
        return cast(Tensor, self.rest(self.first(packed.permute(0, 3, 1, 2))).permute(0, 2, 3, 1))
