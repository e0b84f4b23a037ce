"""LSQML on one of several ranks: its own batches, and sums over those of all ranks."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from ptycho_bluesky.reconstruction._amplitudes import Numbers
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator
from ptycho_bluesky.reconstruction.distributed._halos import Halos
from ptycho_bluesky.reconstruction.distributed._sweep import Meter
from ptycho_bluesky.reconstruction.engines import LsqmlOptions
from ptycho_bluesky.reconstruction.engines._batch_model import BatchKind, BatchProblem

__all__ = ["RankBatches"]


class RankBatches(BatchProblem):
    """A problem's batches on one of several ranks.

    With compact batches, object and probe move once an epoch by sums over all batches: here over those of all ranks,
    pixel by pixel where tiles meet. So it is the algorithm of one process but for which frames are in a batch together.

    Parameters
    ----------
    problem:
        The rank's: corners of all frames within its tile, amplitudes of its own.
    mine:
        (n,) numbers of its own frames among all.
    communicator, halos:
        To the other ranks, and the pixels shared with them.
    options:
        Threads and size of a batch.
    device:
        ``"cpu"``, ``"cuda"``...
    meter:
        Counts what this rank does.
    """

    stopped = False
    """An epoch is always done."""

    def __init__(
        self,
        problem: Problem,
        mine: Numbers,
        communicator: Communicator,
        halos: Halos,
        options: LsqmlOptions,
        device: str,
        meter: Meter,
    ) -> None:
        super().__init__(problem, device, options.threads or 1, options.batch_size)
        self.name = f"{self.name}, {communicator.size} ranks"
        self.meter = meter
        self._mine, self._communicator, self._halos = self.tensor(mine), communicator, halos

    def batches(
        self, kind: BatchKind = "compact", rng: np.random.Generator | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield numbers among all frames (B,) and amplitudes (B, H, W) of each of the rank's batches."""
        began = time.perf_counter()
        for frames, amplitude in super().batches(kind, rng):
            yield self._mine[frames], amplitude
            self.meter.frames += len(frames)
        self.meter.seconds += time.perf_counter() - began

    def sums(self, name: str, *tensors: torch.Tensor) -> None:
        """Make of each tensor, in place, its sum over all ranks."""
        for number, tensor in enumerate(tensors):
            tensor.copy_(self._communicator.all_reduce(tensor.cpu(), f"{name} ({number + 1})"))

    def object_sums(self, numerator: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Make of sums (Y, X), in place, those over the frames of all ranks; return the largest weight of all tiles."""
        images = torch.stack([numerator.real, numerator.imag, weight]).cpu()
        self._halos.add(images.numpy())
        numerator.copy_(torch.complex(images[0], images[1]))
        weight.copy_(images[2])
        peaks = [0.0] * self._communicator.size
        peaks[self._communicator.rank] = float(weight.amax())
        return weight.new_tensor(max(self._communicator.sum_of(peaks, "the brightest pixels")))

    def r_factor(self, model: Model, groups: ProbeGroups) -> float:
        """Return the R-factor over the frames of all ranks, with the best scale on each rank."""
        return self._communicator.sum_of([super().r_factor(model, groups)], "R-factors")[0]
