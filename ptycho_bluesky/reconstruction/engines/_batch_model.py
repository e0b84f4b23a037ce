"""What engines that work by batches share: a model as tensors, and the forward model from it to the frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import Model, Variation
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.kernels._cuda import waves_for
from ptycho_bluesky.reconstruction.kernels._frames import DeviceFrames
from ptycho_bluesky.reconstruction.kernels._torch import TorchWaves, device_named, power
from ptycho_bluesky.reconstruction.kernels._waves import Noise

__all__ = ["BatchKind", "BatchProblem", "Light", "ModelTensors", "shift_phases"]

BatchKind = Literal["compact", "sparse"]
"""Frames of a batch lie next to each other on the sample, or far apart."""

DARK = 0.01
"""Of the mean counts of a pixel: what Poisson noise expects where nothing is lit."""


def shift_phases(fractions: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.complex128]:
    """Return (G, H, W), which multiplies the transform of a wave to move it by (G, 2) pixels."""
    ramps = np.exp(-2j * np.pi * fractions[:, :, None] * np.fft.fftfreq(size))
    return np.asarray(ramps[:, 0, :, None] * ramps[:, 1, None, :])


class Light:
    """What lights the frames of a batch: an index of `probes` for each, and the corner of its patch."""

    def __init__(self, probes: torch.Tensor, groups: torch.Tensor, corners: torch.Tensor) -> None:
        self.probes, self.groups, self.corners = probes, groups, corners


class ModelTensors:
    """A :class:`Model` on the device, to be moved in place.

    object (Y, X), probe (sets, M, H, W), background (H, W) or None; of a variation modes (R, H, W) and weights (N, R),
    or None. After a change of `probe` or `modes`, call :meth:`spread_probes`.

    Parameters
    ----------
    problem:
        Where the tensors live.
    model:
        Copied.
    groups:
        How its corners are rounded.
    floor:
        Counts that each pixel holds at the least, see :meth:`BatchProblem.floor`.
    """

    def __init__(self, problem: BatchProblem, model: Model, groups: ProbeGroups, floor: float = 0.0) -> None:
        tensor, self._floor = problem.tensor, floor
        self.waves, self.sums = problem.waves, problem.sums
        self._template, self._groups = model, groups
        self.object, self.probe = tensor(model.object[0]).clone(), tensor(model.probe).clone()
        self.background = None if model.background is None else tensor(model.background).clone()
        self.modes = self.weights = None
        if model.variation is not None:
            self.modes, self.weights = tensor(model.variation.modes).clone(), tensor(model.variation.weights).clone()
        self.of_frame, self.corners = tensor(groups.of_frame), tensor(groups.corners)
        self._sets = tensor(groups.sets)
        self._phases: torch.Tensor | None = None
        if groups.fractions.any():
            self._phases = tensor(shift_phases(groups.fractions, model.probe.shape[-1]))
        self.spread_probes()

    def spread(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (G, M, H, W), the waves (sets, M, H, W) of each group, moved by the group's fraction of a pixel."""
        if self._phases is None:
            return waves[self._sets]
        copies: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(waves)[self._sets] * self._phases[:, None])
        return copies

    def gather(self, copies: torch.Tensor) -> torch.Tensor:
        """Return (sets, M, H, W), the adjoint of :meth:`spread`: copies (G, M, H, W) moved back and summed."""
        if self._phases is not None:
            copies = torch.fft.fft2(copies) * self._phases.conj()[:, None]
        summed = copies.new_zeros(len(self.probe), *copies.shape[1:]).index_add_(0, self._sets, copies)
        return summed if self._phases is None else torch.fft.ifft2(summed)

    def gather_weight(self, weights: torch.Tensor) -> torch.Tensor:
        """Return (sets, H, W): real weights (G, H, W) summed; they are smooth, a fraction of a pixel is no matter."""
        return weights.new_zeros(len(self.probe), *weights.shape[1:]).index_add_(0, self._sets, weights)

    def spread_probes(self) -> None:
        """Bring the copies of the groups up to date with `probe` and `modes`."""
        self.copies = self.spread(self.probe)
        self.varied = None if self.modes is None else self.spread(self.modes[None].expand(len(self.probe), -1, -1, -1))

    def light(self, frames: torch.Tensor) -> Light:
        """Return what lights some frames: the probes of their groups, or, where these vary, each frame's own."""
        mine, corners = self.of_frame[frames], self.corners[frames]
        if self.varied is None or self.weights is None:
            return Light(self.copies, mine, corners)
        probes = self.copies[mine]
        probes[:, 0] += torch.einsum("br,brij->bij", self.weights[frames].to(probes.dtype), self.varied[mine])
        return Light(probes, torch.arange(len(frames), device=mine.device), corners)

    def exit_waves(self, light: Light) -> torch.Tensor:
        """Return (B, M, H, W), the waves behind the sample."""
        return self.waves.exit_waves(self.object, light.probes, light.groups, light.corners)

    def intensity(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (B, H, W) counts that waves (B, M, H, W) on the detector stand for, the background among them."""
        total, pedestal = power(waves).sum(dim=1), self.pedestal
        return total if pedestal is None else total + pedestal

    def misfit(self, waves: torch.Tensor, amplitude: torch.Tensor) -> torch.Tensor:
        """Return the sum of ``| modulus - amplitude |`` over good pixels, without Poisson noise's floor in the dark."""
        total = power(waves).sum(dim=1)
        modulus = (total if self.background is None else total + self.background).sqrt()
        return torch.where(amplitude >= 0, (modulus - amplitude).abs(), 0).sum(dtype=torch.float64)

    @property
    def pedestal(self) -> torch.Tensor | None:
        """(H, W) counts besides the diffraction; None for none."""
        if not self._floor:
            return self.background
        background = self.object.real.new_zeros(self.probe.shape[-2:]) if self.background is None else self.background
        return background.clamp_min(self._floor)

    def model(self) -> Model:
        """Return arrays of their own."""
        variation = None
        if self.modes is not None and self.weights is not None:
            variation = Variation(_array(self.modes), _array(self.weights))
        return replace(
            self._template,
            object=_array(self.object)[None],
            probe=_array(self.probe),
            background=None if self.background is None else _array(self.background),
            variation=variation,
        )


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    dtype = torch.complex64 if tensor.is_complex() else torch.float32
    return np.array(tensor.to(dtype).cpu().numpy())


class BatchProblem:
    """A problem on a device: its waves, its frames by batches, and the judge of its models.

    Parameters
    ----------
    problem:
        What is reconstructed.
    device:
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``...
    threads:
        CPU threads; None for torch's own number.
    batch_size:
        Most frames of a batch; None for 16 on a CPU, 64 elsewhere.
    precision:
        Of the model; float64 serves checks.
    """

    def __init__(
        self,
        problem: Problem,
        device: str,
        threads: int | None = None,
        batch_size: int | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self._device, self._precision, self.problem = device_named(device), precision, problem
        single, transfer = precision == torch.float32, self.tensor(problem.transfer)
        self.waves = waves_for(self._device, transfer) if single else TorchWaves(self._device, transfer)
        self._frames = DeviceFrames(problem.amplitudes, self._device)
        self.device = str(self._device)
        self.batch_size = min(batch_size or (16 if self._device.type == "cpu" else 64), len(problem))
        self.name = f"{self.waves.name}, batches of {self.batch_size}"
        if threads is not None and self._device.type == "cpu" and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def tensor(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        """Return the array on the device, floating numbers in the model's precision."""
        there = torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
        if there.is_complex():
            return there.to(self._precision.to_complex())
        return there.to(self._precision) if there.is_floating_point() else there

    def sums(self, name: str, *tensors: torch.Tensor) -> None:
        """Make of sums over the frames here, in place, those over all frames; the same where all frames are here.

        `name` is what they are of.
        """

    def object_sums(self, numerator: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Do the same for sums over the frames that light each pixel (Y, X); return the largest weight anywhere."""
        return weight.amax()

    def floor(self, noise: Noise) -> float:
        """Return the counts that Poisson noise has each pixel expect at the least: a photon in the dark is possible."""
        share = DARK if noise == "poisson" else 0.0
        return share * self.problem.mean_counts / self.problem.amplitudes.size**2

    def batches(
        self, kind: BatchKind = "compact", rng: np.random.Generator | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield numbers (B,) and amplitudes (B, H, W) of each batch, in random order where there is an `rng`."""
        blocks = np.arange(len(self.problem.amplitudes.blocks))
        for block in self._frames.load(blocks if rng is None else rng.permutation(blocks)):
            frames = self.tensor(block.frames)
            for places in self._places(len(block.frames), kind, rng):
                yield frames[self.tensor(places)], block.amplitude(places).to(self._precision)

    def _places(self, count: int, kind: BatchKind, rng: np.random.Generator | None) -> list[npt.NDArray[np.int64]]:
        """Cut a block, in Hilbert order, into runs of neighbours, or take for each batch one frame of each range."""
        places = np.arange(count)
        if kind == "sparse" and rng is not None:
            columns = [rng.permutation(part) for part in np.array_split(places, min(self.batch_size, count))]
            return [np.array([c[row] for c in columns if row < len(c)]) for row in range(len(columns[0]))]
        start = 0 if rng is None else int(rng.integers(self.batch_size))  # so that borders fall elsewhere each time
        parts = np.split(places, np.arange(start or self.batch_size, count, self.batch_size))
        return parts if rng is None else [parts[i] for i in rng.permutation(len(parts))]

    @torch.inference_mode()
    def r_factor(self, model: Model, groups: ProbeGroups) -> float:
        """Return the R-factor over all frames, with the best global scale."""
        tensors = ModelTensors(self, model, groups)

        def sums(factor: float) -> tuple[float, float, float]:
            total = torch.zeros(3, dtype=torch.float64, device=self._device)
            for frames, amplitude in self.batches():
                waves = self.waves.to_detector(tensors.exit_waves(tensors.light(frames)))
                good = amplitude >= 0
                seen, measured = tensors.intensity(waves).sqrt()[good].double(), amplitude[good].double()
                absolute = (factor * seen - measured).abs().sum()
                total += torch.stack([absolute, (seen * measured).sum(), (seen**2).sum()])
            return tuple(total.tolist())

        _, cross, square = sums(1.0)
        return sums(cross / max(square, 1e-30))[0] / self.problem.total
