"""The whole forward model, from object, probe and the rest to the expected counts, for automatic differentiation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from ptycho_bluesky.reconstruction._amplitudes import Block
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import Model, Variation
from ptycho_bluesky.reconstruction._modes import orthogonal_modes, with_modes
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction._slices import slice_transfer
from ptycho_bluesky.reconstruction.kernels._torch import power

__all__ = ["DifferentiableModel", "ModelEvaluator", "batches"]

LEAST_BACKGROUND = 0.001
"""Counts of a pixel, in units of the mean, at which a background begins: from 0 no gradient leads away."""

FRAMES_PER_EVALUATION = 32


def batches(block: Block, size: int, rng: np.random.Generator | None) -> Iterator[np.ndarray]:
    """Yield places in `block` of the frames of each batch, at random; in order where there is no `rng`."""
    count = len(block.frames)
    places = np.arange(count) if rng is None else rng.permutation(count)
    yield from np.array_split(places, -(-count // size))


class DifferentiableModel(torch.nn.Module):
    """Object, probe, positions, background and probe variation as real parameters of about unit size.

    Complex numbers are pairs of real ones, such that any optimiser takes them; a probe is in units of its largest
    modulus, a background the square of its parameter. A fraction of a pixel moves the probe, by a Fourier ramp.

    Parameters
    ----------
    problem:
        Frames, propagators, canvas.
    model:
        Where to begin.
    device:
        Of the parameters.
    positions, background, opr:
        What else there is to learn: displacements of the corners, a background, this many variation modes. What
        `model` has of them belongs to the forward model in any case.
    whole_pixels:
        Round corners to whole pixels, which spares a transform for each wave; without `positions` alone.
    dtype:
        Of the real numbers.
    """

    def __init__(
        self, problem: Problem, model: Model, device: torch.device, *, positions: bool = False,
        background: bool = False, opr: int = 0, whole_pixels: bool = False, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.problem, self._model, self.device, self._dtype = problem, model, device, dtype
        self._complex = torch.complex128 if dtype == torch.float64 else torch.complex64
        size, peak = model.probe.shape[-1], float(np.abs(model.probe).max())
        self.peak, self._count = peak, problem.mean_counts / size**2
        self.object = self._parameter(model.object)
        self.probe = self._parameter(model.probe / peak)
        corners = np.rint(model.corners) if whole_pixels and not positions else model.corners
        self._corners = torch.from_numpy(np.array(corners, np.float64)).to(device)
        self._moving = positions or not whole_pixels
        self.positions = self._parameter(np.zeros_like(corners)) if positions else None
        self.background = None
        if background or model.background is not None:
            given, least = model.background, np.full((size, size), LEAST_BACKGROUND)
            self.background = self._parameter(np.sqrt(least if given is None else np.maximum(given / self._count, 0)))
        self.variation = self.weights = None
        if opr or model.variation is not None:
            variation = model.variation or _still(model, len(problem), opr)
            self.variation = self._parameter(variation.modes / peak)
            self.weights = self._parameter(variation.weights)
        self._sets = torch.from_numpy(problem.sets).to(device)
        self._transfer = self._constant(problem.transfer)
        self._between = self._constant(slice_transfer(problem))
        self._frequency = torch.from_numpy(np.fft.fftfreq(size)).to(device, dtype)
        self._side = torch.arange(size, device=device)
        self._limit = torch.tensor([n - size for n in model.object.shape[1:]], device=device)

    def _parameter(self, array: np.ndarray) -> torch.nn.Parameter:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        return torch.nn.Parameter(real.to(self._dtype, copy=True))

    def _constant(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, self._complex)

    def _ramps(self, fractions: torch.Tensor) -> torch.Tensor:
        """Return (B, 1, H, W), which moves a wave by (B, 2) pixels."""
        turns = -2 * torch.pi * fractions[:, :, None] * self._frequency
        rows, columns = torch.polar(torch.ones_like(turns), turns).unbind(1)
        return (rows[:, :, None] * columns[:, None])[:, None]

    def _probes(self, frames: torch.Tensor, ramps: torch.Tensor | None) -> torch.Tensor:
        """Return (B, M, H, W), the probe of each frame."""
        probe, mine = self.peak * torch.view_as_complex(self.probe), self._sets[frames]
        transformed = ramps is not None
        waves = torch.fft.fft2(probe)[mine] if transformed else probe[mine]
        if self.variation is not None and self.weights is not None:
            modes = self.peak * torch.view_as_complex(self.variation)
            modes = torch.fft.fft2(modes) if transformed else modes
            added = torch.einsum("br,rij->bij", self.weights[frames].to(modes.dtype), modes)
            waves = torch.cat([waves[:, :1] + added[:, None], waves[:, 1:]], dim=1)
        return waves if ramps is None else torch.fft.ifft2(waves * ramps)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return (B, H, W), the expected counts of frames (B,), zero frequency at the corner."""
        corners = self._corners[frames]
        corners = corners if self.positions is None else corners + self.positions[frames]
        whole = corners.detach().round().long()
        whole = torch.minimum(whole.clamp(min=0), self._limit)
        ramps = self._ramps((corners - whole).to(self._dtype)) if self._moving else None
        waves = self._probes(frames, ramps)
        obj = torch.view_as_complex(self.object)
        inside = self._side[:, None] * obj.shape[-1] + self._side
        index = ((whole[:, 0] * obj.shape[-1] + whole[:, 1])[:, None, None] + inside).reshape(-1)
        for number, thin in enumerate(obj):
            waves = torch.fft.ifft2(torch.fft.fft2(waves) * self._between) if number else waves
            # index_select, for its gradient is a plain addition
            waves = waves * thin.reshape(-1).index_select(0, index).view(-1, 1, *inside.shape)
        if not self._transfer.numel():
            waves = torch.fft.fft2(waves, norm="ortho")
        else:  # the object moves, beam and detector stay: back by what the probe was moved
            back = self._transfer if ramps is None else self._transfer * ramps.conj()
            waves = torch.fft.ifft2(torch.fft.fft2(waves) * back)
        counts = power(waves).sum(dim=1)
        return counts if self.background is None else counts + self._count * self.background**2

    @torch.no_grad()
    def model(self) -> Model:
        """Return arrays of their own; modes are orthogonal where the first one does not vary."""
        probe = _complex_array(self.peak * self.probe)
        changes: dict[str, object] = {"object": _complex_array(self.object), "probe": probe}
        if self.positions is not None:
            changes["corners"] = (self._corners + self.positions).cpu().numpy()
        if self.background is not None:
            changes["background"] = (self._count * self.background**2).cpu().numpy().astype(np.float32)
        if self.variation is None or self.weights is None:
            changes["probe"] = orthogonal_modes(probe)
        else:
            changes["variation"] = _settled(
                _complex_array(self.peak * self.variation), self.weights.cpu().numpy().astype(np.float32), probe[0, 0]
            )
        return replace(self._model, **changes)  # type: ignore[arg-type]


def _complex_array(pairs: torch.Tensor) -> np.ndarray:
    return torch.view_as_complex(pairs.detach()).cpu().numpy().astype(np.complex64)


def _still(model: Model, frames: int, rank: int) -> Variation:
    """Return a variation that does nothing yet: the first mode itself, which is its intensity, then its relatives."""
    first = model.probe[0, :1]
    modes = np.concatenate([first, with_modes(first, rank)[1:]])
    return _settled(modes, np.zeros((frames, rank), np.float32), first[0])


def _settled(modes: np.ndarray, weights: np.ndarray, first: np.ndarray) -> Variation:
    """Return the same variation, each mode with the power of the first probe mode."""
    norms = np.maximum(np.linalg.norm(modes, axis=(1, 2)), np.finfo(np.float32).tiny)
    scale = (np.linalg.norm(first) / norms).astype(np.float32)
    return Variation(np.asarray(modes * scale[:, None, None], np.complex64), weights / scale)


class ModelEvaluator:
    """R-factors by the whole forward model: positions as they are, slices, background, variation.

    Parameters
    ----------
    problem:
        Whose frames are compared.
    device:
        Where to work.
    whole_pixels:
        Whether corners are rounded to whole pixels.
    """

    name = "torch, automatic differentiation"

    def __init__(self, problem: Problem, device: torch.device, *, whole_pixels: bool = False) -> None:
        self.device, self._device, self._problem, self._whole = str(device), device, problem, whole_pixels

    @torch.no_grad()
    def r_factor(self, model: Model, groups: ProbeGroups) -> float:
        """Return the R-factor over all frames, with the best global scale; `groups` are not needed."""
        net = DifferentiableModel(self._problem, model, self._device, whole_pixels=self._whole)
        amplitudes = self._problem.amplitudes

        def sums(factor: float) -> tuple[float, float, float]:
            total = torch.zeros(3, dtype=torch.float64, device=self._device)
            for block in amplitudes.load(range(len(amplitudes.blocks))):
                for places in batches(block, FRAMES_PER_EVALUATION, None):
                    frames = torch.from_numpy(block.frames[places]).to(self._device)
                    amplitude = torch.from_numpy(block.amplitude[block.rows[places]]).to(self._device)
                    good = amplitude >= 0
                    seen, measured = net(frames).sqrt()[good].double(), amplitude[good].double()
                    absolute = (factor * seen - measured).abs().sum()
                    total += torch.stack([absolute, (seen * measured).sum(), (seen**2).sum()])
            absolute, cross, squares = total.tolist()
            return absolute, cross, squares

        _, cross, squares = sums(1.0)
        return sums(cross / max(squares, 1e-30))[0] / amplitudes.total
