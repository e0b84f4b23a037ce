"""The kernel set on CPUs: threads that own compact ranges of the scan, each with its tile of the object."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import hilbert_order
from ptycho_bluesky.reconstruction import _numba_kernels as passes
from ptycho_bluesky.reconstruction._kernels import Steps
from ptycho_bluesky.reconstruction._problem import ComplexArray, Model, Problem, Subpixel

__all__ = ["CpuKernels"]

FRAMES_PER_THREAD = 48
"""Fewer are not worth a thread: its own copy of the probe would learn too little in an epoch."""

_T = TypeVar("_T")

AXES = np.array([1, 2])


@dataclass(frozen=True)
class _Range:
    """Frames of one thread, the rectangle of the object that they see, and their illumination there."""

    frames: npt.NDArray[np.int64]
    tile: tuple[slice, slice]
    weight: npt.NDArray[np.float32]


class CpuKernels:
    """Frames one by one in each of a few threads.

    Hilbert order is cut into ranges of equal count, one a thread. During an epoch a thread updates its own copies of
    probe and tile, so that nothing depends on timing: the result is the same for a seed and a number of threads.
    At the end, tiles are averaged with their illumination as weight, and probes over threads.
    """

    device = "cpu"

    def __init__(self, problem: Problem, threads: int = 1) -> None:
        self.problem = problem
        count = len(problem.amplitude)
        self.workers = max(1, min(threads, count // FRAMES_PER_THREAD))
        self.name = f"numba, {self.workers} thread{'s' * (self.workers > 1)}"
        size = problem.amplitude.shape[-1]
        modes = len(problem.start.probe)
        self._waves = [np.empty((modes, size, size), np.complex64) for _ in range(self.workers)]
        self._transfer = np.ascontiguousarray(problem.transfer)
        self._ranges = [self._range(part) for part in np.array_split(hilbert_order(problem.corners), self.workers)]

    def _each(self, work: Callable[[int], _T]) -> list[_T]:
        """Call `work` with the number of each thread, in the threads."""
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(work, range(self.workers)))

    def _range(self, frames: npt.NDArray[np.int64]) -> _Range:
        size, corners = self.problem.amplitude.shape[-1], np.rint(self.problem.corners[frames]).astype(np.int64)
        shape = np.array(self.problem.start.object.shape)
        first, last = np.maximum(corners.min(axis=0) - 1, 0), np.minimum(corners.max(axis=0) + size + 1, shape)
        intensity = (np.abs(self.problem.start.probe) ** 2).sum(axis=0)
        weight = np.full(tuple(last - first), 1e-6 * float(intensity.max()), np.float32)
        for y, x in corners - first:
            weight[y : y + size, x : x + size] += intensity
        return _Range(frames, (slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))), weight)

    def sweep(self, model: Model, subpixel: Subpixel, steps: Steps, rng: np.random.Generator) -> tuple[Model, float]:
        """Update the model with every frame once; return it with the R-factor seen on the way."""
        orders = [rng.permutation(part.frames) for part in self._ranges]
        spread = subpixel.spread(model.probe)
        tiles = [model.object[part.tile].copy() for part in self._ranges]
        probes = [spread.copy() for _ in self._ranges]

        def work(t: int) -> float:
            first = np.array([part.start for part in self._ranges[t].tile])
            return float(
                passes.sweep(
                    orders[t],
                    subpixel.corners - first,
                    subpixel.classes,
                    self.problem.amplitude,
                    tiles[t],
                    probes[t],
                    self._waves[t],
                    AXES,
                    self._transfer,
                    np.float32(steps.alpha_object),
                    np.float32(steps.alpha_probe),
                    np.float32(steps.object),
                    np.float32(steps.probe),
                )
            )

        error = sum(self._each(work))
        visits = np.stack([np.bincount(subpixel.classes[order], minlength=len(spread)) for order in orders])
        probe = subpixel.gather(np.stack(probes), visits)
        return Model(self._merge(model.object, tiles), probe), error / self.problem.total

    def _merge(self, obj: ComplexArray, tiles: list[ComplexArray]) -> ComplexArray:
        if self.workers == 1 and tiles[0].shape == obj.shape:
            return tiles[0]
        total, merged = np.zeros(obj.shape, np.float32), np.zeros_like(obj)
        for part, tile in zip(self._ranges, tiles, strict=True):
            total[part.tile] += part.weight
            merged[part.tile] += tile * part.weight
        seen = total > 0
        merged[seen] /= total[seen]
        merged[~seen] = obj[~seen]
        return merged

    def r_factor(self, model: Model, subpixel: Subpixel) -> float:
        """Return the R-factor over all frames, with the best global scale."""
        probes = subpixel.spread(model.probe)

        def sums(factor: float) -> npt.NDArray[np.float64]:
            def work(t: int) -> tuple[float, float, float]:
                return passes.evaluate(
                    self._ranges[t].frames,
                    subpixel.corners,
                    subpixel.classes,
                    self.problem.amplitude,
                    model.object,
                    probes,
                    self._waves[t],
                    AXES,
                    self._transfer,
                    np.float32(factor),
                )

            return np.array(self._each(work), dtype=np.float64).sum(axis=0)  # type: ignore[no-any-return]

        _, cross, power = sums(1.0)
        return float(sums(cross / max(power, 1e-30))[0] / self.problem.total)
