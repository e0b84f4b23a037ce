"""Sweeps by batches: the kernel set of any device, made of operations on waves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._amplitudes import Numbers
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction._slices import slice_transfer
from ptycho_bluesky.reconstruction.kernels._cuda import waves_for
from ptycho_bluesky.reconstruction.kernels._frames import DeviceFrames, FramesThere
from ptycho_bluesky.reconstruction.kernels._protocol import DataType, Steps, Swept
from ptycho_bluesky.reconstruction.kernels._torch import TorchWaves, device_named, power
from ptycho_bluesky.reconstruction.kernels._waves import WaveKernels

__all__ = ["BatchKernels", "rpie_update"]


def rpie_update(
    waves_of: WaveKernels,
    obj: torch.Tensor,
    probes: torch.Tensor,
    difference: torch.Tensor,
    groups: torch.Tensor,
    corners: torch.Tensor,
    steps: Steps,
) -> None:
    """Move obj (Y, X) and probes (G, M, H, W) by the difference (B, M, H, W) of projected and exit waves, in place.

    rPIE (Maiden, Johnson and Li, Optica 4, 736 (2017), eq. 19), summed over the batch. Where frames of a batch
    overlap, the sum of their weights takes the place of the regularised weight as soon as it is the larger one: no
    pixel overshoots. For a batch of one frame this is the sequential rule of the CPU kernels.
    """
    numerator, weight = torch.zeros_like(obj), torch.zeros_like(obj.real)
    waves_of.add_object(numerator, weight, difference, probes, groups, corners)
    gradient, bright = torch.zeros_like(probes), torch.zeros_like(probes[:, 0].real)
    if steps.probe:
        waves_of.add_probe(gradient, bright, difference, obj, groups, corners)
    alpha, peak = steps.alpha_object, power(probes[groups]).sum(dim=1).amax()
    obj += steps.object * numerator / torch.maximum((1 - alpha) * weight + alpha * peak, weight + 1e-30)
    if steps.probe:
        alpha = steps.alpha_probe
        probes += steps.probe * gradient / torch.maximum((1 - alpha) * bright + alpha, bright)[:, None]


class BatchKernels:
    """Batches of frames that lie far apart on the sample, so that a batch acts almost like frames one by one.

    A block of frames, in Hilbert order, is cut into as many ranges as a batch has frames; a batch takes one frame of
    each. The sum over a batch is not bit-equal from run to run on a GPU (atomic additions); on the CPU it is.

    Through a thick object the update goes back slice by slice, as it came: each slice and the wave that enters it learn
    from the difference behind it (3PIE: Maiden, Humphry and Rodenburg, JOSA A 29, 1606 (2012), section 3).

    Parameters
    ----------
    problem:
        What is reconstructed.
    device:
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``...
    threads:
        CPU threads; None for torch's own number.
    batch:
        Frames of a batch; None for 8 on a CPU, elsewhere for a sixteenth of all, but 8 to 32: the more of them act
        together, the less an epoch brings.
    waves:
        The operations on waves, for the problem's transfer function; None for the fastest that the device has.
    data_type:
        Of the frames on the device, see :class:`DeviceFrames`.
    """

    def __init__(
        self,
        problem: Problem,
        device: str,
        threads: int | None = None,
        batch: int | None = None,
        waves: WaveKernels | None = None,
        data_type: DataType = "auto",
    ) -> None:
        self._device = device_named(device)
        transfer = torch.from_numpy(np.ascontiguousarray(problem.transfer)).to(self._device)
        self.waves = waves or waves_for(self._device, transfer)
        self._between = TorchWaves(self._device, self._tensor(slice_transfer(problem)))
        self._frames = DeviceFrames(problem.amplitudes, self._device, data_type)
        self.device, self.problem = str(self._device), problem
        usual = 8 if self._device.type == "cpu" else int(np.clip(len(problem) // 16, 8, 32))
        self.batch = max(1, min(batch or usual, len(problem)))
        self.name = f"{self.waves.name}, batches of {self.batch}"
        self._threads = threads

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _batches(self, block: FramesThere, rng: np.random.Generator | None) -> Iterator[Numbers]:
        """Yield places in `block` of the frames of each batch; in order where there is no `rng`."""
        places = np.arange(len(block.frames))
        if rng is None:
            yield from np.array_split(places, -(-len(places) // self.batch))
            return
        columns = [rng.permutation(part) for part in np.array_split(places, min(self.batch, len(places)))]
        for row in range(len(columns[0])):
            yield np.array([column[row] for column in columns if row < len(column)])

    def _light(
        self, obj: torch.Tensor, probes: torch.Tensor, groups: torch.Tensor, corners: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return what enters each slice of obj (S, Y, X): waves (K, M, H, W), and (B,) which of them a frame has."""
        light = [(probes, groups)]
        for thin in obj[:-1]:
            waves = self._between.to_detector(self.waves.exit_waves(thin, *light[-1], corners))
            light.append((waves, torch.arange(len(waves), device=self._device)))
        return light

    @torch.inference_mode()
    def sweep(self, model: Model, groups: ProbeGroups, steps: Steps, rng: np.random.Generator) -> Swept:
        """Update the model with every frame once; return it with the R-factor seen on the way."""
        self._use_threads()
        obj, probe = self._tensor(model.object.copy()), model.probe
        if steps.find_shifts and len(obj) > 1:
            raise ReconstructionError("rPIE corrects no positions through slices; take engine 'autodiff' for both")
        corners, of_frame = self._tensor(groups.corners), self._tensor(groups.of_frame)
        error = torch.zeros((), dtype=torch.float64, device=self._device)
        found = torch.zeros((len(self.problem), 2), device=self._device) if steps.find_shifts else None
        for block in self._frames.load(rng.permutation(len(self.problem.amplitudes.blocks))):
            probes, frames = self._tensor(groups.spread(probe)), self._tensor(block.frames)
            for batch in self._batches(block, rng):
                chosen = frames[self._tensor(batch)]
                mine, corner = of_frame[chosen], corners[chosen]
                light = self._light(obj, probes, mine, corner)
                waves = self.waves.to_detector(self.waves.exit_waves(obj[-1], *light[-1], corner))
                waves, seen = self.waves.project(waves, block.amplitude(batch))
                error += seen.sum(dtype=torch.float64)
                difference = self.waves.to_sample(waves) - self.waves.exit_waves(obj[-1], *light[-1], corner)
                for number in range(len(obj) - 1, 0, -1):
                    entering, index = light[number]
                    before = entering.clone()
                    rpie_update(self.waves, obj[number], entering, difference, index, corner, replace(steps, probe=1.0))
                    difference = self._between.to_sample(entering - before)
                if found is not None:
                    found[chosen] = self.waves.shifts(difference, obj[0], probes, mine, corner)
                rpie_update(self.waves, obj[0], probes, difference, mine, corner, steps)
            visits = np.bincount(groups.of_frame[block.frames], minlength=len(probes))
            probe = groups.gather(probes.cpu().numpy()[None], visits[None], probe)
        moved = replace(model, object=obj.cpu().numpy(), probe=probe)
        shifts = None if found is None else found.cpu().numpy().astype(np.float64)
        return Swept(moved, float(error) / self.problem.total, shifts)

    @torch.inference_mode()
    def r_factor(self, model: Model, groups: ProbeGroups) -> float:
        """Return the R-factor over all frames, with the best global scale."""
        self._use_threads()
        obj, probes = self._tensor(model.object), self._tensor(groups.spread(model.probe))
        corners, of_frame = self._tensor(groups.corners), self._tensor(groups.of_frame)

        def sums(factor: float) -> tuple[float, float, float]:
            total = torch.zeros(3, dtype=torch.float64, device=self._device)
            for block in self._frames.load(range(len(self.problem.amplitudes.blocks))):
                for batch in self._batches(block, None):
                    chosen = self._tensor(block.frames[batch])
                    light = self._light(obj, probes, of_frame[chosen], corners[chosen])
                    waves = self.waves.exit_waves(obj[-1], *light[-1], corners[chosen])
                    modulus = power(self.waves.to_detector(waves)).sum(dim=1).sqrt()
                    amplitude = block.amplitude(batch)
                    good = amplitude >= 0
                    seen, measured = torch.where(good, modulus, 0).double(), amplitude.clamp_min(0).double()
                    absolute = (factor * seen - measured).abs().sum()
                    total += torch.stack([absolute, (seen * measured).sum(), (seen**2).sum()])
            return tuple(total.tolist())

        _, cross, power_sum = sums(1.0)
        return sums(cross / max(power_sum, 1e-30))[0] / self.problem.total

    def _use_threads(self) -> None:
        if self._threads is not None and self._device.type == "cpu" and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
