"""The sums over all frames that a likelihood is made of, by the CPU's fused passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.reconstruction._amplitudes import Block, Numbers
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import ComplexArray
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._batch_model import ModelTensors
from ptycho_bluesky.reconstruction.engines._sums import TINY, Direction, SlopeSums
from ptycho_bluesky.reconstruction.kernels import _gradients as passes
from ptycho_bluesky.reconstruction.kernels import _strips as layout
from ptycho_bluesky.reconstruction.kernels._numba import CpuKernels
from ptycho_bluesky.reconstruction.kernels._waves import Noise
from ptycho_bluesky.transforms import LANES, aligned

__all__ = ["CpuSums"]


@dataclass(frozen=True)
class _Piece:
    """Frames of one thread, and the rectangle of the object that they see."""

    visits: Numbers
    rows: slice
    columns: slice

    def tile(self, obj: ComplexArray) -> npt.NDArray[np.float32]:
        tile: npt.NDArray[np.float32] = layout.tile_of(obj[self.rows, self.columns])
        return tile


class CpuSums(CpuKernels):
    """:class:`Sums` by threads that own compact parts of each block; their sums are added in a fixed order.

    The result is the same, bit by bit, for a number of threads. The probe must not vary from frame to frame.

    Parameters
    ----------
    problem:
        With the frames.
    groups:
        How its corners are rounded.
    threads:
        At most.
    """

    def __init__(self, problem: Problem, groups: ProbeGroups, threads: int = 1) -> None:
        super().__init__(problem, threads)
        self._groups, modes = groups, problem.start.probe.shape[1]
        self._wide_rooms = [layout.room_for(self._size, 2 * modes) for _ in range(self.workers)]
        self._none = np.zeros((self._size, self._size), np.float32)

    def _pieces(self, block: Block) -> list[_Piece]:
        """Return the threads' parts of a block, the visits of a group one after the other."""
        pieces = []
        for part in self._parts(block, self._groups, None):
            visits = part.visits[np.argsort(part.visits[:, 3], kind="stable")]
            (y, x), (height, width) = part.corner, part.shape
            pieces.append(_Piece(visits, slice(y, y + height), slice(x, x + width)))
        return pieces

    def _met(self, pattern: torch.Tensor | None) -> npt.NDArray[np.float32]:
        return layout.met_of(self._none if pattern is None else pattern.numpy(), self._optics)

    def _detector(self, at: ModelTensors, noise: Noise) -> passes.Detector:
        return passes.Detector(self._met(at.background), self._met(at.pedestal), noise == "poisson", TINY)

    def slope(self, at: ModelTensors, noise: Noise, with_background: bool) -> SlopeSums:
        """See :class:`Sums`."""
        obj, probes, detector = at.object.numpy(), layout.strips_of(at.copies.numpy()), self._detector(at, noise)
        strips, count = detector.background.shape, probes.shape[0]
        totals, numerator, weight = np.zeros(2), np.zeros_like(obj), np.zeros(obj.shape, np.float32)
        learnt, bright = np.zeros_like(probes), np.zeros((count, *strips), np.float32)
        excess, certainty = (np.zeros(strips, np.float32) for _ in range(2))
        shares = [(aligned(probes.shape), aligned(bright.shape)) for _ in range(self.workers)]

        def add(block: Block) -> None:
            pieces = self._pieces(block)

            def work(t: int) -> tuple[tuple[float, float], passes.Gradient]:
                tile, (mine, light) = pieces[t].tile(obj), shares[t]
                mine[:], light[:] = 0, 0
                patterns = [aligned(strips if with_background else (0, 1, LANES)) for _ in range(2)]
                plane = np.zeros((tile.shape[0], tile.shape[2]), np.float32)
                found = passes.Gradient(np.zeros_like(tile), plane, mine, light, *patterns)
                sums = passes.slope(
                    pieces[t].visits, block.amplitude, tile, probes, self._optics, self._rooms[t], detector, found
                )
                return sums, found

            for piece, (sums, found) in zip(pieces, self._each(work), strict=True):
                totals[:] += sums
                here = numerator[piece.rows, piece.columns]
                inner = found.object[1:-1, :, 1 : here.shape[1] + 1]
                here.real += inner[:, 0]
                here.imag += inner[:, 1]
                weight[piece.rows, piece.columns] += found.object_weight[1:-1, 1 : here.shape[1] + 1]
                np.add(learnt, found.probes, out=learnt)
                np.add(bright, found.probes_weight, out=bright)
                if with_background:
                    np.add(excess, found.excess, out=excess)
                    np.add(certainty, found.certainty, out=certainty)

        for block in self.problem.amplitudes.load(range(len(self.problem.amplitudes.blocks))):
            add(block)
        patterns = [torch.from_numpy(layout.frame_of(met, self._optics)) for met in (excess, certainty)]
        lit = bright.transpose(0, 2, 1, 3).reshape(count, strips[1], -1)[:, : self._size, : self._size]
        return SlopeSums(
            float(totals[0]),
            float(totals[1]),
            torch.from_numpy(numerator),
            torch.from_numpy(weight),
            torch.from_numpy(layout.waves_of(learnt, self._size)),
            torch.from_numpy(np.ascontiguousarray(lit)),
            *(patterns if with_background else (None, None)),
        )

    def curvature(self, at: ModelTensors, direction: Direction, noise: Noise) -> tuple[float, float]:
        """See :class:`Sums`."""
        probes, probes_move = layout.strips_of(at.copies.numpy()), layout.strips_of(direction.probes.numpy())
        detector, move, totals = self._detector(at, noise), self._met(direction.background), np.zeros(2)
        obj, obj_move = at.object.numpy(), direction.object.numpy()

        def of_block(block: Block) -> list[tuple[float, float]]:
            pieces = self._pieces(block)

            def work(t: int) -> tuple[float, float]:
                tiles = pieces[t].tile(obj), pieces[t].tile(obj_move)
                found: tuple[float, float] = passes.curvature(
                    pieces[t].visits, block.amplitude, tiles[0], probes, tiles[1], probes_move, move, self._optics,
                    self._wide_rooms[t], detector,
                )  # fmt: skip
                return found

            return self._each(work)

        for block in self.problem.amplitudes.load(range(len(self.problem.amplitudes.blocks))):
            totals += np.sum(of_block(block), axis=0)
        return float(totals[0]), float(totals[1])
