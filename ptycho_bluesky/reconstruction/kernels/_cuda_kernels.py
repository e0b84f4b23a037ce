"""Sweeps of rPIE by fused CUDA kernels, a captured graph for each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels
from ptycho_bluesky.reconstruction.kernels._cuda import CudaWaves
from ptycho_bluesky.reconstruction.kernels._cuda_batch import CudaBatch
from ptycho_bluesky.reconstruction.kernels._frames import FramesThere
from ptycho_bluesky.reconstruction.kernels._protocol import DataType, Steps, Swept

__all__ = ["CudaKernels"]


class CudaKernels(BatchKernels):
    """Batches as those of :class:`BatchKernels`, all of one length, each a replay of a captured graph.

    Frames stay on the device, and nothing waits for it within an epoch; object and probe come to the host once an
    epoch. Thick objects go the way of :class:`BatchKernels`.

    Parameters
    ----------
    problem:
        What is reconstructed.
    waves:
        The operations, for the problem's transfer function.
    data_type:
        Of the frames on the device, see :class:`DeviceFrames`.
    batch:
        Frames of a batch; None for the number of :class:`BatchKernels`.
    graphs:
        Whether to capture graphs; without them every kernel is launched from Python.
    """

    def __init__(
        self,
        problem: Problem,
        waves: CudaWaves,
        data_type: DataType = "auto",
        batch: int | None = None,
        graphs: bool = True,
    ) -> None:
        super().__init__(problem, str(waves.device), batch=batch, waves=waves, data_type=data_type)
        self._fused, self._graphs = waves, graphs and waves.device.type == "cuda"
        self._place: CudaBatch | None = None
        self._returned: ComplexArray | None = None
        """The object that the last sweep returned, which the device still has."""

    @property
    def data_type(self) -> str:
        """What frames are stored as: ``"float32"``, ``"float16"`` or ``"uint16"``."""
        return self._frames.kind

    @torch.inference_mode()
    def sweep(self, model: Model, groups: ProbeGroups, steps: Steps, rng: np.random.Generator) -> Swept:
        """Update the model with every frame once; return it with the R-factor seen on the way."""
        if len(model.object) > 1:
            return super().sweep(model, groups, steps, rng)
        probes = _Probes(model.probe, groups, self._fused.device)
        batch = self._begin(model, len(groups.sets), steps)
        batch.kind = self.data_type
        for there in self._frames.load(rng.permutation(len(self.problem.amplitudes.blocks))):
            batch.stored = there.stored
            probes.spread(batch.copies)
            for visit in _there(self._visits(there, groups, rng), self._fused.device):
                batch.run(visit, self._graphs)
            probes.gather(batch.copies, groups.of_frame[there.frames])
        moved, probe, errors, *found = _here([batch.obj[None], probes.probe, batch.errors, *batch.shifts])
        self._returned = moved
        shifts = found[0].astype(np.float64) if found else None
        error = float(errors.sum()) / self.problem.total
        return Swept(replace(model, object=moved, probe=probe), error, shifts)

    def _begin(self, model: Model, groups: int, steps: Steps) -> CudaBatch:
        """Return the place where the model is now; the one of the epoch before where it fits."""
        room = 1 << (groups - 1).bit_length()  # corrected positions fall into a few groups more or less each epoch
        shape, copies = model.object.shape[1:], (room, *model.probe.shape[1:])
        batch = self._place
        if batch is None or batch.key != (shape, copies, steps.find_shifts):
            batch = CudaBatch(self._fused, shape, copies, self.batch, len(self.problem), steps.find_shifts)
            self._place, self._returned = batch, None
        if model.object is not self._returned:
            batch.obj.copy_(_there(model.object[0], self._fused.device))
        pace = np.array([steps.object, steps.probe, steps.alpha_object, steps.alpha_probe], np.float32)
        batch.pace.copy_(_there(pace, self._fused.device))
        batch.errors.zero_()
        return batch

    def _visits(self, there: FramesThere, groups: ProbeGroups, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return (batches, VISIT * B), the batches of a block, filled up with frames of no group."""
        count, size = len(there.frames), self.batch
        parts = [rng.permutation(part) for part in np.array_split(np.arange(count), min(size, count))]
        places = np.full((len(parts[0]), size), -1)
        for column, part in enumerate(parts):
            places[: len(part), column] = part
        real, frames = places >= 0, there.frames[places]
        group, row = np.where(real, groups.of_frame[frames], -1), np.where(real, there.rows[places], -1)
        number = np.where(real, frames, len(self.problem))
        corner = np.where(real[..., None], groups.corners[frames], 0).reshape(len(places), 2 * size)
        return np.concatenate([group, row, number, corner], axis=1)


class _Probes:
    """The probe (sets, M, H, W) on a device, spread to groups and gathered again as :class:`ProbeGroups` does it."""

    def __init__(self, probe: ComplexArray, groups: ProbeGroups, device: torch.device) -> None:
        self._groups, self._device = groups, device
        self.probe, self._sets = _there(probe, device), _there(groups.sets, device)
        moved = groups.fractions.any()
        self._phases = _there(groups.phases(probe.shape[-1]), device)[:, None] if moved else None

    def spread(self, copies: torch.Tensor) -> None:
        """Write the copies of the groups to the first of (room, M, H, W)."""
        mine = self.probe[self._sets]
        if self._phases is not None:
            mine = torch.fft.ifft2(torch.fft.fft2(mine) * self._phases)
        copies[: len(mine)].copy_(mine)

    def gather(self, copies: torch.Tensor, visited: npt.NDArray[np.int64]) -> None:
        """Average the copies, weighted with how many frames visited each of them."""
        visits = np.bincount(visited, minlength=len(self._groups.sets))
        total = np.bincount(self._groups.sets, visits, len(self.probe))
        shares = (visits / np.maximum(total, 1)[self._groups.sets]).astype(np.float32)
        mean = copies[: len(shares)] * _there(shares, self._device)[:, None, None, None]
        if self._phases is not None:
            mean = torch.fft.fft2(mean) * self._phases.conj()
        sums = torch.zeros_like(self.probe).index_add_(0, self._sets, mean)
        sums = sums if self._phases is None else torch.fft.ifft2(sums)
        self.probe = torch.where(_there(total > 0, self._device)[:, None, None, None], sums, self.probe)


def _there(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return the array on the device; the host does not wait for the copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.clone()


def _here(tensors: Sequence[torch.Tensor]) -> list[npt.NDArray[Any]]:
    """Return tensors as arrays of their own, in pinned memory where they come from a GPU; wait once for all of them."""
    if tensors[0].device.type == "cpu":
        return [tensor.clone().numpy() for tensor in tensors]
    arrays = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [array.numpy() for array in arrays]
