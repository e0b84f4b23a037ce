"""Whole networks on frames of their own size: layers in a backend, physics in compiled passes, threads side by side.

An engine is given frames (B, N, N) float32 counts, the zero frequency in the centre, and returns :class:`Made`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ptycho_bluesky.inference._ptychonn import PtychoNN
from ptycho_bluesky.inference._vit import ProbeViT
from ptycho_bluesky.inference.backends._layers import Refining, Transforming
from ptycho_bluesky.inference.backends._open import open_backend
from ptycho_bluesky.inference.backends._physics import ProbePhysics
from ptycho_bluesky.inference.backends._protocol import BackendOptions, Images, Precision

__all__ = ["Engine", "Made", "PlainEngine", "ProbeEngine", "WholeEngine"]

CHUNK = 4
"""Frames at once for one thread: the activations of more leave the cache, and the rate falls."""

_T = TypeVar("_T")


class Made(NamedTuple):
    """What an engine makes of a batch."""

    phase: Images
    """(B, N, N) radians; ProbeViT's are turned so that a patch's mean in the beam has phase 0."""
    amplitude: Images | None
    """(B, N, N), None from a network that gives phase alone."""
    misfit: Images | None
    """(B,) relative misfit of each patch, None where the probe is not known."""


class Engine(Protocol):
    """A network ready for one probe, in one runtime."""

    name: str
    """The runtime and the device."""

    precision: Precision
    """Numbers that the layers compute with."""

    def __call__(self, frames: Images, /) -> Made:
        """Return what the network makes of `frames` (B, N, N)."""
        ...


class _Threads:
    """Parts of a batch at the same time; with one thread, one after the other."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, "network", torch.set_num_threads, (1,)) if count > 1 else None

    def over(self, work: Callable[[slice], _T], frames: int) -> list[_T]:
        """Return what `work` makes of each part of `frames` frames, in order."""
        size = max(1, min(CHUNK, -(-frames // self.count)))
        parts = [slice(k, min(k + size, frames)) for k in range(0, frames, size)]
        if self._pool is None or len(parts) < 2:
            return [work(part) for part in parts]
        return list(self._pool.map(work, parts))


class ProbeEngine:
    """ProbeViT with its layers in a backend and its physics in compiled passes.

    Parameters
    ----------
    network:
        On the CPU, ready to infer.
    probe, good:
        (modes, N, N) and (N, N) as the network is given them.
    options:
        Which backend.
    example:
        (K, N, N) frames, to measure deviations on and to calibrate int8 with.
    """

    def __init__(
        self,
        network: ProbeViT,
        probe: npt.NDArray[np.complex64],
        good: npt.NDArray[np.bool_],
        options: BackendOptions,
        example: Images,
    ) -> None:
        refine = Refining(network)
        self._physics = ProbePhysics(network.sizes, probe, good, refine.factor)
        self._threads = _Threads(options.threads)
        shown, way = self._physics.prepare(example)
        self._transformer = open_backend(Transforming(network), shown[:2], options, shown)
        seen = self._physics.look_again(way, self._transformer(shown)[0])
        self._convolutions = open_backend(refine, seen[:2], options, seen)
        self.name, self.precision = self._transformer.name, self._transformer.precision

    def __call__(self, frames: Images, /) -> Made:
        """Return what the network makes of `frames` (B, N, N)."""
        parts = self._threads.over(lambda part: self._part(frames[part]), len(frames))
        phase, amplitude, misfit = (np.concatenate(made) for made in zip(*parts, strict=True))
        return Made(phase, amplitude, misfit)

    def _part(self, frames: Images) -> tuple[Images, Images, Images]:
        tokens, way = self._physics.prepare(frames)
        seen = self._physics.look_again(way, self._transformer(tokens)[0])
        return self._physics.conclude(way, self._convolutions(seen)[0])


class WholeEngine:
    """ProbeViT as one graph, physics and all: for GPUs, and for sizes that the compiled passes do not have."""

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
        self._threads = _Threads(1 if self.name == "torch-cuda" else options.threads)

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
    physics:
        Of the probe, for misfits; None where it is not known.
    """

    def __init__(
        self,
        network: PtychoNN,
        good: npt.NDArray[np.bool_],
        options: BackendOptions,
        example: Images,
        calibration: Images | None,
        physics: ProbePhysics | None,
    ) -> None:
        self._good, self._physics, self._threads = good, physics, _Threads(options.threads)
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
        if self._physics is None:
            return Made(phase, amplitude, None)
        patches = np.exp(np.complex64(1j) * phase) * (np.float32(1) if amplitude is None else amplitude)
        return Made(phase, amplitude, self._physics.misfits(frames, patches))


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
