"""The measured amplitudes, block by block: compact pieces of the scan, from memory or streamed from where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Frames, hilbert_order

__all__ = [
    "BAD_PIXEL",
    "BLOCK",
    "Amplitudes",
    "Block",
    "MemoryAmplitudes",
    "Numbers",
    "StreamedAmplitudes",
    "amplitudes_of",
]

FloatFrames = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

BAD_PIXEL = -1.0
"""Amplitude that tells the kernels to keep the model's value."""

BLOCK = 1024
"""Most frames of a block: enough for two threads to learn a probe from, 64 MB of 128 x 128 pixels."""

GAP = 4
"""Unwanted frames between two wanted ones that are read rather than jumped over: a call costs as much."""


@dataclass(frozen=True)
class Block:
    """Frames that lie together on the sample, with their amplitudes."""

    frames: Numbers
    """(n,) numbers of the frames, in Hilbert order."""

    amplitude: FloatFrames
    """(K, H, W) square roots of counts, zero frequency at the corner (far field); negative = bad pixel."""

    rows: Numbers
    """(n,) row of `amplitude` of each frame."""


class Amplitudes(Protocol):
    """Square roots of the counts of all used frames."""

    size: int
    """Pixels along a side of a frame."""

    total: float
    """Sum over all good pixels."""

    blocks: list[Numbers]
    """Frames of each block, in Hilbert order; the blocks follow each other in that order too."""

    def __len__(self) -> int: ...

    def load(self, order: Sequence[int] | Numbers) -> Iterator[Block]:
        """Yield blocks in the order asked for; the next is read while one is worked on."""
        ...

    def of(self, frames: Numbers) -> FloatFrames:
        """Return (n, H, W), the amplitudes of some frames."""
        ...


def amplitudes_of(frames: npt.NDArray[Any], mask: npt.NDArray[np.bool_] | None, reciprocal: bool) -> FloatFrames:
    """Return (n, H, W) square roots of counts, bad pixels marked, the far field's zero frequency at the corner."""
    roots = np.sqrt(np.where(mask, 0, frames) if mask is not None else frames, dtype=np.float32)
    if mask is not None:
        roots[:, mask] = BAD_PIXEL
    return scipy.fft.ifftshift(roots, axes=(1, 2)) if reciprocal else roots


def _cut(corners: npt.NDArray[np.float64], most: int) -> list[Numbers]:
    order = hilbert_order(corners)
    return [np.ascontiguousarray(part) for part in np.array_split(order, max(1, -(-len(order) // most)))]


class MemoryAmplitudes:
    """All amplitudes in memory.

    Parameters
    ----------
    amplitude:
        (N, H, W).
    corners:
        (N, 2) object pixels, which the blocks are cut by.
    block:
        Most frames of a block.
    """

    def __init__(self, amplitude: FloatFrames, corners: npt.NDArray[np.float64], block: int = BLOCK) -> None:
        self.array = amplitude
        self.size = amplitude.shape[-1]
        self.total = float(sum(np.maximum(part, 0).sum(dtype=np.float64) for part in amplitude))
        self.blocks = _cut(corners, block)

    def __len__(self) -> int:
        return len(self.array)

    def load(self, order: Sequence[int] | Numbers) -> Iterator[Block]:
        """Yield blocks that share the one array."""
        for number in order:
            yield Block(self.blocks[number], self.array, self.blocks[number])

    def of(self, frames: Numbers) -> FloatFrames:
        """Return (n, H, W), a copy."""
        return self.array[frames]


class StreamedAmplitudes:
    """Amplitudes that stay where they are: each block is read when its turn comes, while the one before is worked on.

    A compact block of B frames is crossed by the scan's path about sqrt(B) times, so that it is read in as many runs of
    neighbouring frames.

    Parameters
    ----------
    frames:
        (N', H, W) counts as the dataset holds them, read by slices.
    used:
        (N,) number in `frames` of each used frame.
    mask, reciprocal:
        See :func:`amplitudes_of`.
    corners:
        (N, 2) object pixels.
    total:
        Sum of the good amplitudes.
    block:
        Most frames of a block.
    """

    def __init__(
        self,
        frames: Frames,
        used: Numbers,
        mask: npt.NDArray[np.bool_] | None,
        reciprocal: bool,
        corners: npt.NDArray[np.float64],
        total: float,
        block: int = BLOCK,
    ) -> None:
        size = int(frames.shape[-1])
        self._frames, self._used, self._half = frames, used, size // 2 if reciprocal else 0
        bad = np.zeros((size, size), np.bool_) if mask is None else mask
        self._bad = np.argwhere(scipy.fft.ifftshift(bad) if reciprocal else bad)
        self.size, self.total = size, total
        self.blocks = _cut(corners, block)

    def __len__(self) -> int:
        return len(self._used)

    def of(self, frames: Numbers) -> FloatFrames:
        """Return (n, H, W), read now."""
        found = np.empty((len(frames), self.size, self.size), np.float32)
        return found[self._read(frames, found)]

    def _read(self, frames: Numbers, found: FloatFrames) -> Numbers:
        """Write amplitudes to `found` in the order in which the frames are stored; return the row of each frame."""
        from ptycho_bluesky.reconstruction._roots import write_roots  # numba, which takes a second to import

        stored = self._used[frames]
        order = np.argsort(stored, kind="stable")
        breaks, place = np.flatnonzero(np.diff(stored[order]) > GAP) + 1, 0
        for run in np.split(stored[order], breaks):
            first, last = int(run[0]), int(run[-1])
            counts = np.asarray(self._frames[first : last + 1])
            if len(counts) != last + 1 - first:
                raise ReconstructionError(
                    f"frames {first} to {last} were asked for and {len(counts)} came; was the file shortened meanwhile?"
                )
            write_roots(
                counts, run - first, self._bad, self._half, np.float32(BAD_PIXEL), found[place : place + len(run)]
            )
            place += len(run)
        rows = np.empty(len(frames), np.int64)
        rows[order] = np.arange(len(frames))
        return rows

    def load(self, order: Sequence[int] | Numbers) -> Iterator[Block]:
        """Yield blocks; the next is read by a thread of its own.

        A block's amplitudes last until the next block is asked for.
        """
        wanted = [self.blocks[number] for number in order]
        most = max((len(frames) for frames in wanted), default=0)
        # Two that take turns: fresh memory for every block would cost as much as its square roots.
        pages = [np.empty((most, self.size, self.size), np.float32) for _ in range(min(2, len(wanted)))]
        with ThreadPoolExecutor(1) as reader:

            def read(number: int) -> Future[Numbers]:
                return reader.submit(self._read, wanted[number], pages[number % 2])

            coming = read(0) if wanted else None
            for number, frames in enumerate(wanted):
                if coming is None:
                    return
                rows = coming.result()
                coming = read(number + 1) if number + 1 < len(wanted) else None
                yield Block(frames, pages[number % 2], rows)
