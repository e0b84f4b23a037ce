"""The operations on waves in plain torch: the reference, on any device."""

from __future__ import annotations

import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction.kernels._waves import Noise

__all__ = ["TorchWaves", "device_named", "fft", "ifft", "power", "solved_shifts"]

EPS = 1e-6
"""Keeps a division by the modulus finite; far below the root of one count."""


def device_named(name: str) -> torch.device:
    """Return a device that works.

    Raises
    ------
    ReconstructionError
        When torch does not find it on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ReconstructionError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); allowed are 'cpu' and what torch finds on "
            "this machine, such as 'cuda' or 'cuda:1'"
        ) from error
    return device


def power(waves: torch.Tensor) -> torch.Tensor:
    """Return ``|waves|**2``, without the root that ``abs`` takes."""
    return waves.real**2 + waves.imag**2


def fft(waves: torch.Tensor, norm: str) -> torch.Tensor:
    """Return the transforms of the last two axes; `norm` as torch has it."""
    transformed: torch.Tensor = torch.fft.fft2(waves, norm=norm)
    return transformed.contiguous()


def ifft(waves: torch.Tensor, norm: str) -> torch.Tensor:
    """Return the inverse transforms of the last two axes; with `norm` "forward" they are divided by nothing."""
    transformed: torch.Tensor = torch.fft.ifft2(waves, norm=norm)
    return transformed.contiguous()


def solved_shifts(sums: torch.Tensor) -> torch.Tensor:
    """Return (B, 2), the solutions of normal equations given as (B, 5): yy, xx, yx and the right-hand side y, x."""
    yy, xx, yx, by, bx = sums.unbind(dim=1)
    determinant = yy * xx - yx**2
    solved = torch.stack([xx * by - yx * bx, yy * bx - yx * by], dim=1) / determinant[:, None]
    return torch.where((determinant > 1e-6 * yy * xx)[:, None], solved, 0)


class TorchWaves:
    """:class:`WaveKernels` in plain torch; any precision, so that float64 tensors give the reference of the others.

    Parameters
    ----------
    device:
        Where the tensors live.
    transfer:
        (H, W) transfer function of the near field, (0, 0) in the far field.
    """

    name = "torch"

    def __init__(self, device: torch.device, transfer: torch.Tensor) -> None:
        self.device, self.transfer = device, transfer

    @staticmethod
    def _index(obj: torch.Tensor, corners: torch.Tensor, size: int) -> torch.Tensor:
        """Return (B, H, W), places of each patch's pixels in the flattened object."""
        side = torch.arange(size, device=corners.device)
        inside = side[:, None] * obj.shape[-1] + side[None]
        return (corners[:, 0] * obj.shape[-1] + corners[:, 1])[:, None, None] + inside

    def patches(self, obj: torch.Tensor, corners: torch.Tensor, size: int) -> torch.Tensor:
        """Return (B, H, W), the object's patches."""
        index = self._index(obj, corners, size)  # index_select: three times as fast as indexing with a tensor
        return obj.reshape(-1).index_select(0, index.reshape(-1)).view(index.shape)

    def exit_waves(
        self, obj: torch.Tensor, probes: torch.Tensor, groups: torch.Tensor, corners: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`WaveKernels`."""
        return probes[groups] * self.patches(obj, corners, probes.shape[-1])[:, None]

    def to_detector(self, waves: torch.Tensor) -> torch.Tensor:
        """See :class:`WaveKernels`."""
        if self.transfer.numel():
            return ifft(fft(waves, "backward") * self.transfer, "backward")
        return fft(waves, "ortho")

    def to_sample(self, waves: torch.Tensor) -> torch.Tensor:
        """See :class:`WaveKernels`."""
        if self.transfer.numel():
            return ifft(fft(waves, "backward") * self.transfer.conj(), "backward")
        return ifft(waves, "ortho")

    def project(
        self, waves: torch.Tensor, amplitude: torch.Tensor, background: torch.Tensor | None = None,
        noise: Noise = "gaussian",
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """See :class:`WaveKernels`."""
        intensity, bad = power(waves).sum(dim=1), amplitude < 0
        modulus = (intensity if background is None else intensity + background).sqrt()
        error = torch.where(bad, 0, (modulus - amplitude).abs()).sum(dim=(1, 2))
        ratio = amplitude / (modulus + EPS)
        ratio = torch.where(bad, 1, ratio if noise == "gaussian" else ratio**2)
        return waves * ratio[:, None], error

    def add_object(
        self, numerator: torch.Tensor, weight: torch.Tensor, waves: torch.Tensor, probes: torch.Tensor,
        groups: torch.Tensor, corners: torch.Tensor,
    ) -> None:  # fmt: skip
        """See :class:`WaveKernels`."""
        mine, index = probes[groups], self._index(numerator, corners, probes.shape[-1]).reshape(-1)
        numerator.view(-1).index_add_(0, index, (mine.conj() * waves).sum(dim=1).reshape(-1))
        weight.view(-1).index_add_(0, index, power(mine).sum(dim=1).reshape(-1))

    def add_probe(
        self, numerator: torch.Tensor, weight: torch.Tensor, waves: torch.Tensor, obj: torch.Tensor,
        groups: torch.Tensor, corners: torch.Tensor,
    ) -> None:  # fmt: skip
        """See :class:`WaveKernels`."""
        patches = self.patches(obj, corners, waves.shape[-1])
        numerator.index_add_(0, groups, patches.conj()[:, None] * waves)
        weight.index_add_(0, groups, power(patches))

    def shifts(
        self, waves: torch.Tensor, obj: torch.Tensor, probes: torch.Tensor, groups: torch.Tensor, corners: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`WaveKernels`."""
        size, mine = probes.shape[-1], probes[groups]
        light, cross = power(mine).sum(dim=1), (mine.conj() * waves).sum(dim=1)
        edges = torch.nn.functional.pad
        slopes = []
        for axis in (0, 1):  # central differences, the last pixel standing in for what lies beyond the border
            pad = (0, 0, 1, 1) if axis == 0 else (1, 1, 0, 0)
            wide = torch.view_as_complex(
                edges(torch.view_as_real(obj).permute(2, 0, 1), pad, mode="replicate").permute(1, 2, 0).contiguous()
            )
            ahead, behind = (wide[2:], wide[:-2]) if axis == 0 else (wide[:, 2:], wide[:, :-2])
            slopes.append(self.patches((ahead - behind) / 2, corners, size))
        y, x = slopes
        yy, xx = (light * power(y)).sum(dim=(1, 2)), (light * power(x)).sum(dim=(1, 2))
        yx = (light * (y.conj() * x).real).sum(dim=(1, 2))
        by, bx = (y.conj() * cross).real.sum(dim=(1, 2)), (x.conj() * cross).real.sum(dim=(1, 2))
        return solved_shifts(torch.stack([yy, xx, yx, by, bx], dim=1))
