"""Pixels that ranks share, and how they come to hold the same there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator, Pending
from ptycho_bluesky.reconstruction.distributed._partition import Partition
from ptycho_bluesky.reconstruction.distributed._pieces import illumination

__all__ = ["Halos"]


class Halos:
    """Pixels that a rank shares, and the mean or the sum over all that light them.

    Weights of the mean are light, as between the threads of the CPU kernels. Each rank computes them for itself and for
    its neighbours from what all know, positions and probe, in one and the same order.

    Parameters
    ----------
    partition:
        Of all frames.
    communicator:
        To the other ranks.
    """

    def __init__(self, partition: Partition, communicator: Communicator) -> None:
        rank = communicator.rank
        self._partition, self._rank, self._communicator = partition, rank, communicator
        self._tile = partition.tiles[rank]
        shape = self._tile[0].stop - self._tile[0].start, self._tile[1].stop - self._tile[1].start
        self._shape = shape
        flat = {}
        for halo in partition.halos_of(rank):
            rows, columns = halo.inside(self._tile)
            flat[halo.other(rank)] = rows.astype(np.int64) * shape[1] + columns
        self._pixels = np.unique(np.concatenate([*flat.values(), np.empty(0, np.int64)]))
        self._places = {other: np.searchsorted(self._pixels, pixels) for other, pixels in flat.items()}
        self._everywhere = np.arange(len(self._pixels))
        self._shares: dict[int, npt.NDArray[np.float32]] = {}

    def weigh(self, corners: npt.NDArray[np.float64], probe: ComplexArray) -> None:
        """Compute the weights anew, from corners (N, 2) within the tile and the probe."""
        weights, total = {}, np.full(len(self._pixels), 1e-30, np.float32)
        for one in sorted([self._rank, *self._places]):
            light = illumination(corners[self._partition.frames[one]], probe, self._shape).ravel()
            places = self._everywhere if one == self._rank else self._places[one]
            weights[one] = light[self._pixels[places]]
            total[places] += weights[one]
        self._shares = {
            one: weight / total[self._everywhere if one == self._rank else self._places[one]]
            for one, weight in weights.items()
        }

    def start(self, obj: ComplexArray) -> tuple[ComplexArray, Pending]:
        """Send what neighbours share of obj (slices, Y, X)."""
        now = np.take(obj.reshape(len(obj), -1), self._pixels, axis=1)
        values = {other: torch.from_numpy(np.take(now, places, axis=1)) for other, places in self._places.items()}
        return now, self._communicator.start_halo(values)

    def finish(self, started: tuple[ComplexArray, Pending], obj: ComplexArray) -> None:
        """Move shared pixels of obj to the mean; what was learnt about them meanwhile stays."""
        now, pending = started
        came = {other: values.numpy() for other, values in pending.finish().items()}
        if not len(self._pixels):
            return
        mean = np.zeros_like(now)
        for one in sorted(self._shares):
            if one == self._rank:
                mean += self._shares[one] * now
            else:
                for part, other in zip(mean, came[one], strict=True):
                    part[self._places[one]] += self._shares[one] * other
        for part, change in zip(obj.reshape(len(obj), -1), mean - now, strict=True):  # faster than all slices at once
            part[self._pixels] += change

    def agreed(self, model: Model) -> Model:
        """Return the model with shared pixels at their mean, after positions moved the object on each rank."""
        obj = model.object.copy()
        self.weigh(model.corners, model.probe)
        self.finish(self.start(obj), obj)
        return replace(model, object=obj)

    def add(self, images: npt.NDArray[np.float32]) -> None:
        """Make of sums (K, Y, X) over the rank's frames those over the frames of all ranks, on shared pixels."""
        flat = images.reshape(len(images), -1)
        now = np.take(flat, self._pixels, axis=1)
        values = {other: torch.from_numpy(np.take(now, places, axis=1)) for other, places in self._places.items()}
        came = self._communicator.start_halo(values, "sums").finish()
        total = np.zeros_like(now)
        for one in sorted([self._rank, *came]):  # in one order, so that all ranks get the same bits
            if one == self._rank:
                total += now
            else:
                for part, other in zip(total, came[one].numpy(), strict=True):
                    part[self._places[one]] += other
        for part, summed in zip(flat, total, strict=True):
            part[self._pixels] = summed
