"""The operations on waves as raw CUDA kernels."""

from __future__ import annotations

import torch

from ptycho_bluesky.reconstruction.kernels._launch import BLOCK, Launcher, cupy_launcher
from ptycho_bluesky.reconstruction.kernels._torch import TorchWaves, fft, ifft, solved_shifts
from ptycho_bluesky.reconstruction.kernels._waves import Noise, WaveKernels

__all__ = ["CudaWaves", "waves_for"]

CHUNK = 32
"""Frames that a thread of ``add_probe`` sums; ``CHUNK`` in the kernels' source."""


class CudaWaves:
    """:class:`WaveKernels` by raw kernels, and besides them the fused steps of a batch of rPIE.

    A frame whose group is negative only fills up its batch: its waves are zero and it moves nothing.

    Parameters
    ----------
    device:
        Where the tensors live.
    transfer:
        (H, W) transfer function of the near field, (0, 0) in the far field.
    launch:
        Launches the kernels.
    """

    name = "cuda"

    def __init__(self, device: torch.device, transfer: torch.Tensor, launch: Launcher) -> None:
        self.device, self._launch = device, launch
        self._transfer = transfer / transfer.numel() if transfer.numel() else None
        """Makes up for two transforms that are not normalised."""

    def exit_waves(
        self, obj: torch.Tensor, probes: torch.Tensor, groups: torch.Tensor, corners: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`WaveKernels`."""
        modes, size = probes.shape[1], probes.shape[-1]
        waves = torch.empty((len(groups), *probes.shape[1:]), dtype=torch.complex64, device=self.device)
        self._over_frames(
            "exit_waves", waves, obj.contiguous(), probes.contiguous(), groups.contiguous(), corners.contiguous(),
            waves, obj.shape[-1], modes, size,
        )  # fmt: skip
        return waves

    def to_detector(self, waves: torch.Tensor) -> torch.Tensor:
        """See :class:`WaveKernels`."""
        return fft(waves, "ortho") if self._transfer is None else self._near(waves, self._transfer)

    def to_sample(self, waves: torch.Tensor) -> torch.Tensor:
        """See :class:`WaveKernels`."""
        if self._transfer is None:
            return ifft(waves, "ortho")
        return self._near(waves, self._transfer.conj().resolve_conj())

    def project(
        self, waves: torch.Tensor, amplitude: torch.Tensor, background: torch.Tensor | None = None,
        noise: Noise = "gaussian",
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """See :class:`WaveKernels`."""
        errors = torch.zeros(len(waves), dtype=torch.float64, device=self.device)
        rows = torch.arange(len(waves), device=self.device)
        waves = waves.contiguous()
        self._project(waves, amplitude, "float32", rows, errors, 1.0, background, noise)
        return waves, errors.float()

    def add_object(
        self, numerator: torch.Tensor, weight: torch.Tensor, waves: torch.Tensor, probes: torch.Tensor,
        groups: torch.Tensor, corners: torch.Tensor,
    ) -> None:  # fmt: skip
        """See :class:`WaveKernels`."""
        self._over_frames(
            "add_object", waves, numerator, weight, waves.contiguous(), probes.contiguous(), groups.contiguous(),
            corners.contiguous(), numerator.shape[-1], waves.shape[1], waves.shape[-1],
        )  # fmt: skip

    def add_probe(
        self, numerator: torch.Tensor, weight: torch.Tensor, waves: torch.Tensor, obj: torch.Tensor,
        groups: torch.Tensor, corners: torch.Tensor,
    ) -> None:  # fmt: skip
        """See :class:`WaveKernels`."""
        frames, modes, size = waves.shape[0], waves.shape[1], waves.shape[-1]
        blocks = -(-frames // CHUNK) * len(numerator) * modes * -(-(size**2) // BLOCK)
        self._launch(
            "add_probe", blocks, numerator, weight, waves.contiguous(), obj.contiguous(), groups.contiguous(),
            corners.contiguous(), frames, obj.shape[-1], modes, size,
        )  # fmt: skip

    def shifts(
        self, waves: torch.Tensor, obj: torch.Tensor, probes: torch.Tensor, groups: torch.Tensor, corners: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`WaveKernels`."""
        sums = torch.zeros((len(waves), 5), device=self.device)
        self._over_frames(
            "add_shifts", waves, sums, waves.contiguous(), obj.contiguous(), probes.contiguous(), groups.contiguous(),
            corners.contiguous(), *obj.shape, waves.shape[1], waves.shape[-1],
        )  # fmt: skip
        return solved_shifts(sums)

    def projected(
        self, waves: torch.Tensor, stored: torch.Tensor, kind: str, rows: torch.Tensor, errors: torch.Tensor
    ) -> torch.Tensor:
        """Return exit waves projected on the measured amplitudes; may write over `waves`.

        The normalisation of the transforms is done by the way. `errors` (B,) float64 is added to.

        Parameters
        ----------
        waves:
            (B, M, H, W) behind the sample.
        stored, kind, rows:
            Frames as a :class:`DeviceFrames` keeps them, and (B,) int64 the row of each; negative for none.
        errors:
            Sum of ``| modulus - amplitude |`` of each frame.
        """
        if self._transfer is None:
            waves = fft(waves, "backward")
            self._project(waves, stored, kind, rows, errors, 1 / waves.shape[-1] ** 2)
            return ifft(waves, "forward")
        waves = self.to_detector(waves)
        self._project(waves, stored, kind, rows, errors, 1.0)
        return self.to_sample(waves)

    def subtract_exit_waves(
        self, waves: torch.Tensor, obj: torch.Tensor, probes: torch.Tensor, groups: torch.Tensor,
        corners: torch.Tensor, numerator: torch.Tensor, weight: torch.Tensor, peak: torch.Tensor,
    ) -> None:  # fmt: skip
        """Subtract the exit waves from `waves`, in place; add up what moves the object as `add_object` does.

        `peak` (1,) is raised to the largest ``sum over modes |P|**2`` among the frames' probes.
        """
        self._over_frames(
            "subtract_exit_waves", waves, waves, obj, probes, groups, corners, numerator, weight, peak,
            obj.shape[-1], waves.shape[1], waves.shape[-1],
        )  # fmt: skip

    def update_probe(
        self, probes: torch.Tensor, differences: torch.Tensor, obj: torch.Tensor, groups: torch.Tensor,
        corners: torch.Tensor, pace: torch.Tensor,
    ) -> None:  # fmt: skip
        """Move probes (G, M, H, W) by differences (B, M, H, W), in place; call it before the object moves.

        `pace` (4,) float32: step of the object, of the probe, alpha of the object, of the probe.
        """
        modes, size = probes.shape[1], probes.shape[-1]
        self._launch(
            "update_probe", len(probes) * modes * -(-(size**2) // BLOCK), probes, differences, obj, groups, corners,
            pace, len(differences), obj.shape[-1], modes, size,
        )  # fmt: skip

    def update_object(
        self, obj: torch.Tensor, numerator: torch.Tensor, weight: torch.Tensor, peak: torch.Tensor, pace: torch.Tensor
    ) -> None:
        """Move the object by what was added up, in place, and empty that."""
        self._launch("update_object", -(-obj.numel() // BLOCK), obj, numerator, weight, peak, pace, obj.numel())

    def _near(self, waves: torch.Tensor, transfer: torch.Tensor) -> torch.Tensor:
        return ifft(fft(waves, "backward").mul_(transfer), "forward")

    def _project(
        self, waves: torch.Tensor, stored: torch.Tensor, kind: str, rows: torch.Tensor, errors: torch.Tensor,
        scale: float, background: torch.Tensor | None = None, noise: Noise = "gaussian",
    ) -> None:  # fmt: skip
        self._over_frames(
            f"project_{kind}", waves, waves, stored.contiguous(), rows,
            None if background is None else background.contiguous(), errors, waves.shape[1], waves.shape[-1] ** 2,
            scale, int(noise == "poisson"),
        )  # fmt: skip

    def _over_frames(self, kernel: str, waves: torch.Tensor, *arguments: torch.Tensor | int | float | None) -> None:
        """Launch a kernel with a thread for each pixel of each frame of `waves`."""
        self._launch(kernel, len(waves) * -(-(waves.shape[-1] ** 2) // BLOCK), *arguments)


def waves_for(device: torch.device, transfer: torch.Tensor) -> WaveKernels:
    """Return the fastest operations on complex64 waves that the device has: raw kernels on CUDA, else torch's own.

    Parameters
    ----------
    device:
        Where the tensors live.
    transfer:
        (H, W) transfer function of the near field, (0, 0) in the far field.
    """
    launch = cupy_launcher(device) if device.type == "cuda" else None
    return TorchWaves(device, transfer) if launch is None else CudaWaves(device, transfer, launch)
