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
from ptycho_bluesky.reconstruction.kernels._protocol import Steps, Swept

__all__ = ["CpuKernels"]

FRAMES_PER_THREAD = 48
"""Fewer are not worth a thread: its own copy of the probe would learn too little between two averages."""

_T = TypeVar("_T")

AXES = np.array([1, 2])


@dataclass(frozen=True)
class _Part:
    """Frames of one thread in the order of their visits, and the rectangle of the object that they see."""

    frames: Numbers
    rows: Numbers
    tile: tuple[slice, slice]


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
        size, modes = problem.amplitudes.size, problem.start.probe.shape[1]
        self._waves = [np.empty((modes, size, size), np.complex64) for _ in range(self.workers)]
        self._transfer = np.ascontiguousarray(problem.transfer)

    def _each(self, work: Callable[[int], _T]) -> list[_T]:
        """Call `work` with the number of each thread, in the threads."""
        if self.workers == 1:
            return [work(0)]
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(work, range(self.workers)))

    def _parts(self, block: Block, groups: ProbeGroups, rng: np.random.Generator | None) -> list[_Part]:
        parts, shape = [], self.problem.grid.shape
        for piece in np.array_split(np.arange(len(block.frames)), self.workers):
            order = piece if rng is None else rng.permutation(piece)
            frames = block.frames[order]
            corners = groups.corners[frames] if len(frames) else np.zeros((1, 2), np.int64)
            first = np.maximum(corners.min(axis=0) - 1, 0)
            last = np.minimum(corners.max(axis=0) + self.problem.amplitudes.size + 1, shape)
            tile = (slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1])))
            parts.append(_Part(frames, block.rows[order], tile))
        return parts

    def sweep(self, model: Model, groups: ProbeGroups, steps: Steps, rng: np.random.Generator) -> Swept:
        """Update the model with every frame once; return it with the R-factor seen on the way."""
        obj, probe, error = model.object[0].copy(), model.probe, 0.0
        shifts = np.zeros((len(self.problem), 2)) if steps.find_shifts else None
        for block in self.problem.amplitudes.load(rng.permutation(len(self.problem.amplitudes.blocks))):
            spread, parts = groups.spread(probe), self._parts(block, groups, rng)
            tiles = [obj[part.tile].copy() for part in parts]
            probes = [spread.copy() for _ in parts]
            moves = [np.empty((len(part.frames) if steps.find_shifts else 0, 2)) for part in parts]

            def work(t: int, parts=parts, tiles=tiles, probes=probes, moves=moves, amplitude=block.amplitude) -> float:
                part = parts[t]
                return float(
                    passes.sweep(
                        part.rows,
                        groups.corners[part.frames] - np.array([side.start for side in part.tile]),
                        groups.of_frame[part.frames],
                        amplitude,
                        tiles[t],
                        probes[t],
                        self._waves[t],
                        AXES,
                        self._transfer,
                        np.float32(steps.alpha_object),
                        np.float32(steps.alpha_probe),
                        np.float32(steps.object),
                        np.float32(steps.probe),
                        moves[t],
                    )
                )

            error += sum(self._each(work))
            visits = np.stack([np.bincount(groups.of_frame[p.frames], minlength=len(spread)) for p in parts])
            probe = groups.gather(np.stack(probes), visits, probe)
            self._merge(obj, parts, tiles, groups, (np.abs(probe[0]) ** 2).sum(axis=0))
            if shifts is not None:
                for part, found in zip(parts, moves, strict=True):
                    shifts[part.frames] = found
        return Swept(replace(model, object=obj[None], probe=probe), error / self.problem.total, shifts)

    def _merge(
        self,
        obj: ComplexArray,
        parts: list[_Part],
        tiles: list[ComplexArray],
        groups: ProbeGroups,
        intensity: npt.NDArray[np.float32],
    ) -> None:
        """Write the tiles' average, weighted with their illumination, into the object."""
        if len(parts) == 1:
            obj[parts[0].tile] = tiles[0]
            return
        first = [min(part.tile[axis].start for part in parts) for axis in (0, 1)]
        last = [max(part.tile[axis].stop for part in parts) for axis in (0, 1)]
        here = (slice(first[0], last[0]), slice(first[1], last[1]))
        before = obj[here]
        total, merged = np.zeros(before.shape, np.float32), np.zeros_like(before)
        for part, tile in zip(parts, tiles, strict=True):
            start = np.array([side.start for side in part.tile])
            weight = np.full(tile.shape, 1e-6 * float(intensity.max()), np.float32)
            passes.illuminate(intensity, groups.corners[part.frames] - start, weight)
            place = tuple(slice(s.start - f, s.stop - f) for s, f in zip(part.tile, first, strict=True))
            total[place] += weight
            merged[place] += tile * weight
        obj[here] = np.where(total > 0, merged / np.maximum(total, np.finfo(np.float32).tiny), before)

    def r_factor(self, model: Model, groups: ProbeGroups) -> float:
        """Return the R-factor over all frames, with the best global scale."""
        probes = groups.spread(model.probe)

        def sums(factor: float) -> npt.NDArray[np.float64]:
            total = np.zeros(3)
            for block in self.problem.amplitudes.load(range(len(self.problem.amplitudes.blocks))):
                parts = self._parts(block, groups, None)

                def work(t: int, parts=parts, amplitude=block.amplitude) -> tuple[float, float, float]:
                    return passes.evaluate(
                        parts[t].rows,
                        groups.corners[parts[t].frames],
                        groups.of_frame[parts[t].frames],
                        amplitude,
                        model.object[0],
                        probes,
                        self._waves[t],
                        AXES,
                        self._transfer,
                        np.float32(factor),
                    )

                total += np.array(self._each(work), dtype=np.float64).sum(axis=0)
            return total

        _, cross, power = sums(1.0)
        return float(sums(cross / max(power, 1e-30))[0] / self.problem.total)
