"""What all ranks know: positions, which frames can be used, the first probe; and how a rank reads its own frames."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import psutil
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import ObjectGrid, PtychoDataset
from ptycho_bluesky.optics import FarField, propagator_for
from ptycho_bluesky.reconstruction._amplitudes import Amplitudes, MemoryAmplitudes, Numbers, StreamedAmplitudes
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._multigrid import SMALLEST, middle, resized
from ptycho_bluesky.reconstruction._problem import SHARE_OF_MEMORY, Problem, Survey, first_probe, survey
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator
from ptycho_bluesky.reconstruction.distributed._options import RankEngineOptions, RankOptions
from ptycho_bluesky.reconstruction.distributed._partition import Partition, light_box
from ptycho_bluesky.reconstruction.distributed._some_frames import SomeFrames
from ptycho_bluesky.reconstruction.engines import FastOptions
from ptycho_bluesky.reconstruction.engines._base import MARGIN, MARGIN_FOR_CORRECTION

__all__ = ["Field", "OwnAmplitudes"]

logger = logging.getLogger(__name__)

OwnAmplitudes = MemoryAmplitudes | StreamedAmplitudes

STILL, MOVING = 2, 8
"""Margin of a patch in pixels where positions stay, and where they are corrected."""


class Field:
    """All that ranks know in common: positions, which frames can be used, the first probe; and this rank's frames.

    Each rank reads its own frames alone.

    Parameters
    ----------
    dataset:
        Frames that are read by slices; with a probe in the far field.
    options:
        Of the engine.
    ranks:
        How ranks work together.
    communicator:
        To the other ranks.

    Raises
    ------
    DatasetError
        When the dataset has faults.
    ReconstructionError
        When there are fewer usable frames than ranks, or the probe cannot be used.
    """

    def __init__(
        self, dataset: PtychoDataset, options: RankEngineOptions, ranks: RankOptions, communicator: Communicator
    ) -> None:
        self.dataset, self.options, self.ranks, self.communicator = dataset.validate(), options, ranks, communicator
        self.grid = dataset.object_grid(MARGIN_FOR_CORRECTION if options.position_correction else MARGIN)
        self.size = dataset.frame_shape[0]
        self.propagator = propagator_for(dataset.geometry, dataset.modality, self.size, options.near_field)
        self.used = np.ones(len(dataset), np.bool_)
        self._read: tuple[Numbers, Survey] | None = None
        self._kept: Numbers | None = None
        found, mean = self._survey_all()
        if not found.all():
            logger.warning("%d of %d frames left out: not finite, negative or empty", (~found).sum(), len(found))
            self.used = found
        self.total = self._total()
        probe, self.mean_counts = first_probe(dataset, mean, self.propagator, options.modes)
        self.probe: ComplexArray = probe[None]

    def _total(self) -> float:
        numbers, mine = self._frames_of(self.partition(self.corners))
        return float(self._sum(np.array([self._own(numbers, self.corners[mine]).total]))[0])

    def coarser(self) -> Field | None:
        """Return the field on object pixels twice as large, without position correction; see :func:`coarser`.

        None where there is none, as in the near field or where a rank's amplitudes do not stay in memory.
        """
        small, options = self.size // 2, self.options
        if not isinstance(options, FastOptions) or not options.coarse_epochs or options.slices > 1:
            return None
        streamed = float(self._read is not None and self._read[1].amplitude is None)
        possible = self.propagator.reciprocal and self.size % 2 == 0 and small >= SMALLEST
        if not possible or self._sum(np.array([streamed]))[0]:
            return None
        coarse = copy.copy(self)
        coarse.options = options.model_copy(update={"epochs": options.coarse_epochs, "position_correction": False})
        shape, grid = [-(-length // 2) + 1 for length in self.grid.shape], self.grid
        coarse.grid = ObjectGrid((shape[0], shape[1]), grid.corners / 2, grid.origin, 2 * grid.pixel_size)
        coarse.size, coarse.propagator = small, FarField(small)
        coarse.probe = resized(self.probe, small)
        coarse._kept = middle(self.size, small)
        coarse.total = coarse._total()
        return coarse

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """(N, 2) corners of the used frames as given, pixels of the whole object."""
        return self.grid.corners[self.used]

    def _sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(self.communicator.all_reduce(torch.from_numpy(values), "the survey").numpy())

    def _survey_all(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Return which frames of the dataset can be used, and their mean."""
        partition = self.partition(self.corners)
        numbers, _ = self._frames_of(partition)
        found = self._survey(numbers)
        used = np.zeros(len(self.used))
        used[numbers] = found.used
        used, summed = self._sum(used), self._sum(found.mean * found.used.sum())
        if not used.any():
            raise ReconstructionError(
                f"dataset {self.dataset.name or '(unnamed)'}: none of {len(used)} frames can be used; a frame must be "
                "finite, not negative and hold at least one count in its good pixels: check detector and mask"
            )
        return used > 0, summed / used.sum()

    def partition(
        self,
        corners: npt.NDArray[np.float64],
        probe: ComplexArray | None = None,
        speeds: list[float] | None = None,
    ) -> Partition:
        """Divide the used frames, at their corners (N, 2) in the whole object, over the ranks."""
        weights = speeds or self.ranks.weights
        if weights is not None and len(weights) != self.communicator.size:
            weights = None
        return Partition.of(
            corners,
            self.size,
            self.grid.shape,
            self.communicator.size,
            weights=weights,
            margin=MOVING if self.options.position_correction else STILL,
            light=None if probe is None else light_box(probe),
        )

    @property
    def bytes_held(self) -> int:
        """Of memory for this rank's amplitudes."""
        kept = None if self._read is None else self._read[1].amplitude
        return 0 if kept is None else kept.nbytes

    def _frames_of(self, partition: Partition) -> tuple[Numbers, Numbers]:
        """Return this rank's frames, rising: their numbers in the dataset, and among the used ones."""
        mine = np.sort(partition.frames[self.communicator.rank])
        return np.flatnonzero(self.used)[mine], mine

    def _survey(self, numbers: Numbers) -> Survey:
        """Read the frames of these numbers, unless they were the last ones read."""
        if self._read is None or not np.array_equal(self._read[0], numbers):
            self._read = None  # two shares at a time would not fit
            frames, positions = SomeFrames(self.dataset.frames, numbers), self.dataset.positions[numbers]
            some = replace(self.dataset, frames=frames, positions=positions, timestamps=None)
            node = len(self.communicator.topology.node_of(self.communicator.rank))
            free = SHARE_OF_MEMORY * psutil.virtual_memory().available / node
            limit = free if self.options.memory_gb is None else self.options.memory_gb * 1e9
            self._read = (numbers, survey(some, self.propagator.reciprocal, limit))
        return self._read[1]

    def amplitudes(self, partition: Partition) -> tuple[OwnAmplitudes, Numbers]:
        """Return the amplitudes of this rank's frames, read unless they are there, and (n,) the frames' numbers.

        Their total is that of all ranks, so that errors of ranks add up to that of all.
        """
        numbers, mine = self._frames_of(partition)
        own = self._own(numbers, partition.corners[mine])
        own.total = self.total
        return own, mine

    def _own(self, numbers: Numbers, corners: npt.NDArray[np.float64]) -> OwnAmplitudes:
        found = self._survey(numbers)
        if found.amplitude is not None:
            amplitude, kept = found.amplitude, self._kept
            if kept is not None:
                amplitude = np.ascontiguousarray(amplitude[:, kept[:, None], kept])
            return MemoryAmplitudes(amplitude, corners)
        return StreamedAmplitudes(
            self.dataset.frames, numbers, self.dataset.mask, self.propagator.reciprocal, corners, found.total
        )

    def problem(self, amplitudes: Amplitudes, grid: ObjectGrid, start: Model) -> Problem:
        """Return the problem of some amplitudes on a grid: of a tile, or of the whole."""
        geometry, options = self.dataset.geometry, self.options
        return Problem(
            amplitudes,
            np.zeros(len(start.corners), np.int64),
            grid,
            self.used,
            self.propagator,
            start,
            self.mean_counts,
            options.slice_distance_m if options.slices > 1 else None,
            None if geometry is None else geometry.wavelength_m,
        )
