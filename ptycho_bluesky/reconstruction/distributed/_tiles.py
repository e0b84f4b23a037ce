"""A rank's part of a reconstruction: its tile of the object, its frames, and how both go on when frames move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.experiment import ObjectGrid
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.distributed._batches import RankBatches
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator
from ptycho_bluesky.reconstruction.distributed._field import Field
from ptycho_bluesky.reconstruction.distributed._halos import Halos
from ptycho_bluesky.reconstruction.distributed._partition import Box, Partition, light_box
from ptycho_bluesky.reconstruction.distributed._pieces import Piece, illumination, shape_of
from ptycho_bluesky.reconstruction.distributed._sweep import Meter, RankKernels
from ptycho_bluesky.reconstruction.engines import EngineState, FastOptions
from ptycho_bluesky.reconstruction.engines._anneal import annealed
from ptycho_bluesky.reconstruction.engines._least_squares import least_squares
from ptycho_bluesky.reconstruction.engines._positions import PositionCorrection
from ptycho_bluesky.reconstruction.kernels import kernels_for

__all__ = ["Tile"]

WIDER_PX = 2
"""Growth of the lit part of the probe after which other pixels are shared."""


class _TileCorrection(PositionCorrection):
    """Position correction on a tile: every rank solves for all frames, and ranks agree on the object that moved."""

    def __init__(self, problem: Problem, halos: Halos, limits: tuple[npt.NDArray[np.float64], ...]) -> None:
        super().__init__(problem, limits=(limits[0], limits[1]))
        self._halos = halos

    def apply(self, model: Model, shifts: npt.NDArray[np.float64], epoch: int, epochs: int) -> Model:
        """Return the model with all corners moved, and the tile's object with them."""
        return self._halos.agreed(super().apply(model, shifts, epoch, epochs))


@dataclass(frozen=True)
class Tile:
    """What one rank works on."""

    partition: Partition
    problem: Problem
    """Of the tile: corners of all frames, counted from its corner; amplitudes of the rank's own."""

    kernels: RankKernels | RankBatches
    correction: PositionCorrection | None
    communicator: Communicator

    @classmethod
    def of(
        cls,
        field: Field,
        partition: Partition,
        start: Model,
        should_stop: Callable[[], bool],
        meter: Meter,
        device: str,
    ) -> Tile:
        """Return this rank's tile, beginning at a model whose object (slices, Y, X) is the tile's.

        The model's corners do not count, the partition's do. `should_stop` and `meter` are those of
        :class:`RankKernels`.
        """
        communicator, options = field.communicator, field.options
        box = partition.tiles[communicator.rank]
        offset, pixel = np.array([box[0].start, box[1].start], np.float64), field.grid.pixel_size
        row, column = (np.array(field.grid.origin) + offset * pixel).tolist()
        amplitudes, mine = field.amplitudes(partition)
        problem = field.problem(
            amplitudes,
            ObjectGrid(shape_of(box), field.grid.corners - offset, (row, column), pixel),
            replace(start, corners=partition.corners - offset),
        )
        halos = Halos(partition, communicator)
        kernels: RankKernels | RankBatches
        if isinstance(options, FastOptions):
            local, exchanges = replace(problem, sets=problem.sets[mine]), field.ranks.exchanges
            inner = kernels_for(local, device, options.kernels, options.threads or 1, options.data_type)
            kernels = RankKernels(
                problem, amplitudes, inner, mine, partition, communicator, halos, exchanges, should_stop, meter
            )
        else:
            kernels = RankBatches(problem, mine, communicator, halos, options, device, meter)
        limits = -offset, np.array(field.grid.shape) - field.size - offset
        correction = _TileCorrection(problem, halos, limits) if options.position_correction else None
        return cls(partition, problem, kernels, correction, communicator)

    @property
    def box(self) -> Box:
        """Rows and columns of the whole object."""
        return self.partition.tiles[self.communicator.rank]

    def states(self, field: Field, warm: bool, done: int) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at the tile's start; see :func:`annealed`."""
        options, kernels = field.options, self.kernels
        if isinstance(options, FastOptions) and isinstance(kernels, RankKernels):
            yield from annealed(self.problem, kernels, options, warm, done, self.correction)
        elif not isinstance(options, FastOptions) and isinstance(kernels, RankBatches):
            yield from least_squares(self.problem, options, kernels.device, kernels, done, self.correction)

    def corners(self, model: Model) -> npt.NDArray[np.float64]:
        """Return (N, 2) corners in the whole object."""
        offset = np.array([self.box[0].start, self.box[1].start])
        return np.asarray(model.corners + offset, np.float64)

    def outgrown(self, model: Model) -> bool:
        """Tell whether frames moved further than the tiles' margin, or the probe grew beyond what counts as lit."""
        moved = np.abs(self.corners(model) - self.partition.corners).max() > self.partition.margin - 1
        lit, now = self.partition.light, light_box(model.probe)
        wider = max(max(a.start - b.start, b.stop - a.stop) for a, b in zip(lit, now, strict=True))
        return bool(moved or wider > WIDER_PX)

    def piece(self, model: Model) -> Piece:
        """Return what this rank has of the object."""
        mine = self.partition.frames[self.communicator.rank]
        return Piece(self.box, model.object, illumination(model.corners[mine], model.probe, shape_of(self.box)))

    def pieces(self, model: Model) -> Iterator[Piece]:
        """Yield the pieces of all ranks, one after the other; every rank goes through all of them."""
        mine = self.piece(model)
        for rank, box in enumerate(self.partition.tiles):
            shape = (len(model.object), *shape_of(box))
            if rank == self.communicator.rank:
                obj, weight = mine.object, mine.weight
            else:
                obj, weight = np.empty(shape, np.complex64), np.empty(shape[1:], np.float32)
            sent = [
                self.communicator.broadcast(torch.from_numpy(np.ascontiguousarray(part)), "a tile", rank).numpy()
                for part in (obj, weight)
            ]
            yield Piece(box, sent[0], sent[1])
