"""Whole networks as one graph: ProbeViT with its physics in torch, and the PtychoNN family.

An engine is given frames (B, N, N) float32 counts, the zero frequency in the centre, and returns :class:`Made`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ptycho_bluesky.inference._ptychonn import PtychoNN
from ptycho_bluesky.inference._vit import ProbeViT
from ptycho_bluesky.inference.backends._open import open_backend
from ptycho_bluesky.inference.backends._protocol import BackendOptions, Images, Made
from ptycho_bluesky.inference.backends._threads import Threads

__all__ = ["PlainEngine", "WholeEngine"]

Misfits = Callable[[Images, npt.NDArray[np.complex64]], Images]
"""From frames (B, N, N) and patches (B, N, N) to misfits (B,)."""


class WholeEngine:
    """ProbeViT as one graph, physics and all: for GPUs, and for sizes that the compiled passes do not have.

    Parameters
    ----------
    network:
        With its weights.
    probe:
        (modes, N, N).
    good:
        (N, N) True = measured.
    options:
        The runtime, its precision and threads.
    example:
        (B, N, N) frames, to try the runtime on.
    """

    def __init__(
        self,
        network: ProbeViT,
        probe: npt.NDArray[np.complex64],
        good: npt.NDArray[np.bool_],
        options: BackendOptions,
        example: Images,
    ) -> None:
        plain = options.model_copy(update={"name": "torch", "precision": "f32"})
        self._backend = open_backend(_Whole(network, probe, good), example[:2, None], plain)
        self.name, self.precision = self._backend.name, self._backend.precision
        self._share = (np.abs(probe) ** 2).sum(axis=0)
        self._threads = Threads(1 if self.name == "torch-cuda" else options.threads)

    def __call__(self, frames: Images, /) -> Made:
        """Return what the network makes of `frames` (B, N, N)."""
        if self.name == "torch-cuda":
            made = self._backend(frames[:, None])[0]
        else:
            made = np.concatenate(self._threads.over(lambda part: self._backend(frames[part, None])[0], len(frames)))
        patches = made[:, 0] + np.complex64(1j) * made[:, 1]
        patches *= np.exp(np.complex64(-1j) * np.angle((self._share * patches).sum(axis=(1, 2), keepdims=True)))
        patches[~(made[:, 2] > 0).any(axis=(1, 2))] = 0
        return Made(np.angle(patches), np.abs(patches), None)


class _Whole(nn.Module):
    """ProbeViT with the probe and the mask built in; frames (B, 1, N, N) to real, imaginary part and good counts."""

    def __init__(self, network: ProbeViT, probe: npt.NDArray[np.complex64], good: npt.NDArray[np.bool_]) -> None:
        super().__init__()
        self.network = network
        self.probe: Tensor
        self.good: Tensor
        self.register_buffer("probe", torch.from_numpy(np.ascontiguousarray(probe))[None])
        self.register_buffer("good", torch.from_numpy(np.ascontiguousarray(good))[None])

    def forward(self, frames: Tensor) -> Tensor:
        patches = self.network(frames[:, 0], self.probe, self.good)[1]
        return torch.stack([patches.real, patches.imag, frames[:, 0] * self.good], 1)


class PlainEngine:
    """A network of the PtychoNN family: counts in, phase and perhaps amplitude out.

    Parameters
    ----------
    network:
        On the CPU, ready to infer.
    good:
        (N, N) pixels that can be trusted; others count 0.
    options:
        Which backend.
    example:
        (K, N, N) frames to measure deviations on.
    calibration:
        (K, N, N) measured frames for int8, or None.
    misfits:
        Of patches in the probe; None where it is not known.
    """

    def __init__(
        self,
        network: PtychoNN,
        good: npt.NDArray[np.bool_],
        options: BackendOptions,
        example: Images,
        calibration: Images | None,
        misfits: Misfits | None,
    ) -> None:
        self._good, self._misfits, self._threads = good, misfits, Threads(options.threads)
        measured = None if calibration is None else self._counts(calibration)
        self._backend = open_backend(_Heads(network), self._counts(example[:2]), options, measured)
        self.name, self.precision = self._backend.name, self._backend.precision

    def _counts(self, frames: Images) -> Images:
        return np.maximum(frames * self._good, 0)[:, None]

    def __call__(self, frames: Images, /) -> Made:
        """Return what the network makes of `frames` (B, N, N)."""
        parts = self._threads.over(lambda part: self._part(frames[part]), len(frames))
        phases, amplitudes, misfits = zip(*parts, strict=True)
        return Made(np.concatenate(phases), _joined(amplitudes), _joined(misfits))

    def _part(self, frames: Images) -> Made:
        made = self._backend(self._counts(frames))
        phase, amplitude = made[0][:, 0], made[1][:, 0] if len(made) > 1 else None
        if self._misfits is None:
            return Made(phase, amplitude, None)
        patches = np.exp(np.complex64(1j) * phase) * (np.float32(1) if amplitude is None else amplitude)
        return Made(phase, amplitude, self._misfits(frames, patches))


def _joined(parts: tuple[Images | None, ...]) -> Images | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None


class _Heads(nn.Module):
    """A PtychoNN whose outputs are those that it has."""

    def __init__(self, network: PtychoNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        phase, amplitude = self.network(frames)
        return (phase,) if amplitude is None else (phase, amplitude)
