"""The kernel set on CPUs: threads that own compact parts of the scan, each with its tile of the object."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.reconstruction._amplitudes import Block, Numbers
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.kernels import _passes as passes
from ptycho_bluesky.reconstruction.kernels import _strips as layout
from ptycho_bluesky.reconstruction.kernels._protocol import Steps, Swept
from ptycho_bluesky.transforms import LANES, aligned

__all__ = ["CpuKernels"]

FRAMES_PER_THREAD = 48
"""Fewer are not worth a thread: its own copy of the probe would learn too little between two averages."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Learnt:
    """What a thread brings from its part of a block."""

    error: float
    tile: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    probes: ComplexArray
    shifts: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Part:
    """Frames of one thread in the order of their visits, and the rectangle of the object that they see."""

    frames: Numbers
    visits: Numbers
    """(n, 4): row of the block's amplitudes, corner within the rectangle, group."""
    corner: tuple[int, int]
    shape: tuple[int, int]

    def tile(self, obj: ComplexArray) -> npt.NDArray[np.float32]:
        (y, x), (height, width) = self.corner, self.shape
        tile: npt.NDArray[np.float32] = layout.tile_of(obj[y : y + height, x : x + width])
        return tile


class CpuKernels:
    """Frames one by one in each of a few threads.

    A block of frames, in Hilbert order, is cut into parts of equal count, one a thread. During a block a thread updates
    its own copies of probe and tile, so that nothing depends on timing: the result is the same for a seed and a number
    of threads. At its end, tiles are averaged with their illumination as weight, and probes over threads.
    """

    device = "cpu"

    def __init__(self, problem: Problem, threads: int = 1) -> None:
        self.problem = problem
        largest = max(len(block) for block in problem.amplitudes.blocks)
        self.workers = max(1, min(threads, largest // FRAMES_PER_THREAD))
        self.name = f"numba, {self.workers} thread{'s' * (self.workers > 1)}"
        self._size, modes = problem.amplitudes.size, problem.start.probe.shape[1]
        self._optics = layout.optics_for(self._size, problem.transfer)
        self._rooms = [layout.room_for(self._size, modes) for _ in range(self.workers)]
        self._pool = ThreadPoolExecutor(self.workers)

    def _each(self, work: Callable[[int], _T]) -> list[_T]:
        """Call `work` with the number of each thread, in the threads."""
        return [work(0)] if self.workers == 1 else list(self._pool.map(work, range(self.workers)))

    def _parts(self, block: Block, groups: ProbeGroups, rng: np.random.Generator | None) -> list[_Part]:
        parts, shape = [], self.problem.grid.shape
        for piece in np.array_split(np.arange(len(block.frames)), self.workers):
            order = piece if rng is None else rng.permutation(piece)
            frames = block.frames[order]
            corners = groups.corners[frames] if len(frames) else np.zeros((1, 2), np.int64)
            first = np.maximum(corners.min(axis=0) - 1, 0)
            last = np.minimum(corners.max(axis=0) + self._size + 1, shape)
            visits = np.column_stack([block.rows[order], groups.corners[frames] - first, groups.of_frame[frames]])
            (y, x), (height, width) = first.tolist(), (last - first).tolist()
            parts.append(_Part(frames, visits, (y, x), (height, width)))
        return parts

    def sweep(self, model: Model, groups: ProbeGroups, steps: Steps, rng: np.random.Generator) -> Swept:
        """Update the model with every frame once; return it with the R-factor seen on the way."""
        obj, probe, error = model.object[0].copy(), model.probe, 0.0
        shifts = np.zeros((len(self.problem), 2)) if steps.find_shifts else None
        for block in self.problem.amplitudes.load(rng.permutation(len(self.problem.amplitudes.blocks))):
            parts = self._parts(block, groups, rng)
            learnt = self._learn(block, parts, obj, probe, groups, steps)
            error += sum(one.error for one in learnt)
            visits = np.stack([np.bincount(part.visits[:, 3], minlength=len(groups.sets)) for part in parts])
            probe = groups.gather(np.stack([one.probes for one in learnt]), visits, probe)
            self._merge(obj, parts, learnt)
            if shifts is not None:
                for part, one in zip(parts, learnt, strict=True):
                    shifts[part.frames] = one.shifts
        return Swept(replace(model, object=obj[None], probe=probe), error / self.problem.total, shifts)

    def _learn(
        self,
        block: Block,
        parts: list[_Part],
        obj: ComplexArray,
        probe: ComplexArray,
        groups: ProbeGroups,
        steps: Steps,
    ) -> list[_Learnt]:
        """Visit a block's frames in the threads, each with copies of its own."""
        pace = passes.Pace(steps.object, steps.probe, steps.alpha_object, steps.alpha_probe)
        start, light = layout.strips_of(groups.spread(probe)), layout.strips_of(probe[0])
        floor = 1e-6 * float((np.abs(probe[0]) ** 2).sum(axis=0).max())
        none = np.empty((0, 0), np.float32)

        def work(t: int) -> _Learnt:
            part, probes = parts[t], aligned(start.shape)
            probes[:] = start
            tile, weight = part.tile(obj), none
            shifts = np.zeros((len(part.frames), 2 if steps.find_shifts else 0))
            error = passes.sweep(part.visits, block.amplitude, tile, probes, self._optics, self._rooms[t], pace, shifts)
            if self.workers > 1:
                weight = np.full((part.shape[0], part.shape[1] + LANES), floor, np.float32)
                layout.illuminate(light, part.visits, weight)
            return _Learnt(float(error), tile, weight, layout.waves_of(probes, self._size), shifts)

        return self._each(work)

    def _merge(self, obj: ComplexArray, parts: list[_Part], learnt: list[_Learnt]) -> None:
        """Write the tiles' average, weighted with their illumination, into the object."""
        if self.workers == 1:  # the average of one
            (y, x), (height, width) = parts[0].corner, parts[0].shape
            here, tile = obj[y : y + height, x : x + width], learnt[0].tile[1 : height + 1, :, 1 : width + 1]
            here.real, here.imag = tile[:, 0], tile[:, 1]
            return
        corners = np.array([part.corner for part in parts])
        first, last = corners.min(axis=0), (corners + [part.shape for part in parts]).max(axis=0)
        here = obj[first[0] : last[0], first[1] : last[1]]
        limits = np.linspace(0, len(here), self.workers + 1).astype(int).tolist()
        merged, weights = np.empty(here.shape, np.complex64), np.empty(here.shape, np.float32)

        def work(t: int) -> None:
            top, bottom = limits[t : t + 2]
            merged[top:bottom], weights[top:bottom] = 0, 0
            for (y, x), one in zip((corners - first).tolist(), learnt, strict=True):
                layout.add_tile(one.tile, one.weight, y, x, top, bottom, merged, weights)
            layout.settle(merged, weights, top, bottom, here)

        self._each(work)

    def r_factor(self, model: Model, groups: ProbeGroups) -> float:
        """Return the R-factor over all frames, with the best global scale."""
        probes = layout.strips_of(groups.spread(model.probe))
        _, cross, power = self._sums(model, groups, probes, 1.0)
        return float(self._sums(model, groups, probes, cross / max(power, 1e-30))[0] / self.problem.total)

    def _sums(
        self, model: Model, groups: ProbeGroups, probes: npt.NDArray[np.float32], factor: float
    ) -> npt.NDArray[np.float64]:
        """Return the sums of :func:`evaluate` over all frames."""
        none = np.zeros((self._size, self._size), np.float32)
        background = layout.met_of(none if model.background is None else model.background, self._optics)

        def of_block(block: Block) -> npt.NDArray[np.float64]:
            parts = self._parts(block, groups, None)

            def work(t: int) -> npt.NDArray[np.float64]:
                tile = parts[t].tile(model.object[0])
                found: npt.NDArray[np.float64] = passes.evaluate(
                    parts[t].visits,
                    block.amplitude,
                    tile,
                    probes,
                    self._optics,
                    self._rooms[t],
                    background,
                    factor,
                )
                return found

            return np.asarray(np.sum(self._each(work), axis=0))

        blocks = self.problem.amplitudes.load(range(len(self.problem.amplitudes.blocks)))
        return np.asarray(np.sum([of_block(block) for block in blocks], axis=0))
