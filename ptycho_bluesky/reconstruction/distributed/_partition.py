"""Who works on which frames, and which pixels of the object ranks have to agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import ReconstructionError, report
from ptycho_bluesky.experiment import hilbert_order

__all__ = ["Box", "Halo", "Partition", "PartitionKind", "light_box"]

Box = tuple[slice, slice]
"""Rows and columns of a rectangle."""

PartitionKind = Literal["hilbert", "stripes", "random"]

COMPLEX64_BYTES = 8


@dataclass(frozen=True, eq=False)
class Halo:
    """Pixels of the object that two ranks light, and therefore have to agree on."""

    first: int
    second: int
    """The two ranks, the lower number first."""

    rows: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    """(K,) of each pixel in the whole object, row by row: ``object[halo.rows, halo.columns]``."""

    def __len__(self) -> int:
        return len(self.rows)

    def other(self, rank: int) -> int:
        """Return the rank that `rank` shares these pixels with."""
        return self.second if rank == self.first else self.first

    def inside(self, tile: Box) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return rows and columns, (K,) each, counted from the corner of a tile."""
        return self.rows - np.int32(tile[0].start), self.columns - np.int32(tile[1].start)


def light_box(probe: npt.NDArray[np.complexfloating], lost: float = 1e-3) -> Box:
    """Return the rectangle of a frame that the probe lights, but for a small part of its power.

    Parameters
    ----------
    probe:
        (..., H, W), modes or sets of modes.
    lost:
        Share of the power that may fall outside, above 0 and below 1; a quarter of it on each side.

    Raises
    ------
    ReconstructionError
        When `lost` is out of these.
    """
    if not 0 < lost < 1:
        raise ReconstructionError(f"a light box that loses {lost} of the power; allowed is a share between 0 and 1")
    power = (np.abs(probe) ** 2).reshape(-1, *probe.shape[-2:]).sum(axis=0, dtype=np.float64)
    found = []
    for axis in (1, 0):
        inner = np.cumsum(power.sum(axis=axis)) / power.sum()
        found.append(slice(int((inner <= lost / 4).sum()), int((inner < 1 - lost / 4).sum()) + 1))
    return found[0], found[1]


@dataclass(frozen=True, eq=False)
class Partition:
    """Frames, tiles and halos of all ranks.

    Neighbouring frames on a Hilbert curve are neighbours on the sample, so that ranges of equal count are compact, with
    short borders and perfect balance; stripes and random shares are there to compare with.
    """

    kind: PartitionKind
    corners: npt.NDArray[np.float64] = field(repr=False)
    """(N, 2) corner of each frame's patch, object pixels."""

    frame_size: int
    shape: tuple[int, int]
    """(Y, X) of the whole object."""

    margin: int
    """Pixels that a position may still move by before a new partition is due."""

    light: Box
    """The part of a frame that counts as lit; light outside is too weak to exchange pixels for."""

    weights: npt.NDArray[np.float64]
    """(ranks,) share of the frames that each rank ought to have; their sum is 1."""

    frames: list[npt.NDArray[np.int64]] = field(repr=False)
    """Numbers of each rank's frames, in Hilbert order."""

    _lit: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        corners: npt.NDArray[np.floating],
        frame_size: int,
        shape: tuple[int, int],
        ranks: int,
        kind: PartitionKind = "hilbert",
        weights: Sequence[float] | npt.NDArray[np.floating] | None = None,
        margin: int = 2,
        light: Box | None = None,
    ) -> Partition:
        """Divide frames over ranks.

        Parameters
        ----------
        corners:
            (N, 2) corner of each frame's patch, object pixels.
        frame_size:
            Pixels along a side of a frame.
        shape:
            (Y, X) of the whole object.
        ranks:
            How many share the work; at most N.
        kind:
            ``hilbert``: ranges of a Hilbert curve. ``stripes``: ranges along the longer side of the field. ``random``.
        weights:
            (ranks,) speeds in any unit, for ranks that are not equally fast; None for equal ones.
        margin:
            Object pixels around each patch that count as part of it, at least 1 for positions between pixels.
        light:
            Rows and columns of a frame that are lit (:func:`light_box`); None for all of it. Only lit pixels are
            exchanged: a probe half as wide as its frame has halos half as wide.

        Raises
        ------
        ReconstructionError
            More ranks than frames, patches outside of the object, weights that are not positive.
        """
        places: npt.NDArray[np.float64] = np.array(corners, dtype=np.float64)
        size = slice(0, frame_size)
        light = (size, size) if light is None else light
        speed = np.ones(max(ranks, 0)) if weights is None else np.array(weights, dtype=np.float64)
        faults = _faults(places, frame_size, shape, ranks, speed, margin, light)
        if faults:
            raise ReconstructionError(report("frames cannot be divided over ranks", faults))
        share = speed / speed.sum()
        ends = np.rint(np.cumsum(share) * len(places)).astype(int)
        # A slow rank gets at least one frame: a tile has to be somewhere.
        numbers = np.arange(ranks)
        ends = np.maximum.accumulate(np.maximum(ends, 1) - numbers) + numbers
        ends = np.minimum(ends, len(places) - numbers[::-1])
        curve = hilbert_order(places)
        place = np.empty(len(places), np.int64)
        place[curve] = np.arange(len(places))
        parts = np.split(_order(kind, places, curve), ends[:-1])
        frames = [part[np.argsort(place[part])] for part in parts]
        return cls(kind, places, frame_size, shape, margin, light, share, frames)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def owner(self) -> npt.NDArray[np.int64]:
        """(N,) rank of each frame."""
        found = np.empty(len(self.corners), np.int64)
        for rank, frames in enumerate(self.frames):
            found[frames] = rank
        return found

    @property
    def imbalance(self) -> float:
        """How much more the busiest rank has than its share; 1 is perfect."""
        counts = np.array([len(frames) for frames in self.frames])
        return float((counts / (self.weights * len(self.corners))).max())

    def _reach(self, frames: npt.NDArray[np.int64], part: Box) -> npt.NDArray[np.int64]:
        """Return (n, 2, 2), first and last + 1 row and column that a part of each frame may touch."""
        inner = np.array([[part[0].start, part[0].stop], [part[1].start, part[1].stop]])
        corners = self.corners[frames]
        first = np.floor(corners + inner[:, 0]).astype(np.int64) - self.margin
        last = np.ceil(corners + inner[:, 1]).astype(np.int64) + self.margin
        limits = np.array(self.shape)
        return np.asarray(np.stack([np.clip(first, 0, limits), np.clip(last, 0, limits)], axis=-1))

    @cached_property
    def tiles(self) -> list[Box]:
        """Of each rank: the rows and columns of the object that hold all its patches and their margin."""
        whole = slice(0, self.frame_size)
        found = []
        for frames in self.frames:
            reach = self._reach(frames, (whole, whole))
            top, left = reach[:, :, 0].min(axis=0).tolist()
            bottom, right = reach[:, :, 1].max(axis=0).tolist()
            found.append((slice(top, bottom), slice(left, right)))
        return found

    def lit(self, rank: int) -> npt.NDArray[np.bool_]:
        """Return (Y, X), True where a rank's frames light its tile."""
        if rank not in self._lit:  # when asked for: one rank of a thousand needs those of its neighbours only
            self._lit[rank] = _covered(self._local(rank), _shape(self.tiles[rank]))
        return self._lit[rank]

    def _local(self, rank: int) -> npt.NDArray[np.int64]:
        rows, columns = self.tiles[rank]
        return self._reach(self.frames[rank], self.light) - np.array([[rows.start], [columns.start]], np.int64)

    def _shared(self, first: int, second: int) -> tuple[Box, npt.NDArray[np.bool_]] | None:
        """Return where two tiles overlap, and which pixels of that both ranks light; None where none is."""
        here = tuple(
            slice(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(self.tiles[first], self.tiles[second], strict=True)
        )
        if any(part.start >= part.stop for part in here):
            return None
        box = (here[0], here[1])
        both = self.lit(first)[_within(box, self.tiles[first])] & self.lit(second)[_within(box, self.tiles[second])]
        return (box, both) if both.any() else None

    @cached_property
    def pixels(self) -> npt.NDArray[np.int64]:
        """(ranks, ranks) pixels that each two ranks share."""
        found = np.zeros((len(self), len(self)), np.int64)
        for first in range(len(self)):
            for second in range(first + 1, len(self)):
                shared = self._shared(first, second)
                if shared is not None:
                    found[first, second] = found[second, first] = np.count_nonzero(shared[1])
        return found

    def halos_of(self, rank: int) -> list[Halo]:
        """Return what a rank shares with each neighbour, by the neighbours' numbers."""
        found = []
        for other in range(len(self)):
            pair = (min(rank, other), max(rank, other))
            shared = None if other == rank else self._shared(*pair)
            if shared is not None:
                (rows, columns), both = shared
                y, x = np.nonzero(both)
                found.append(Halo(*pair, (y + rows.start).astype(np.int32), (x + columns.start).astype(np.int32)))
        return found

    @cached_property
    def halos(self) -> list[Halo]:
        """All pairs of neighbours, each once."""
        return [halo for rank in range(len(self)) for halo in self.halos_of(rank) if halo.first == rank]

    def border(self, rank: int) -> npt.NDArray[np.bool_]:
        """Return (n,), True for those of a rank's n frames that light a pixel which another rank lights too."""
        shared = np.zeros(_shape(self.tiles[rank]), np.bool_)
        for halo in self.halos_of(rank):
            shared[halo.inside(self.tiles[rank])] = True
        table = np.zeros((shared.shape[0] + 1, shared.shape[1] + 1), np.int64)
        table[1:, 1:] = shared.cumsum(axis=0).cumsum(axis=1)
        (top, bottom), (left, right) = self._local(rank).transpose(1, 2, 0)
        inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return np.asarray(inside > 0)

    def bytes_per_exchange(self, rank: int | None = None, bytes_per_pixel: int = COMPLEX64_BYTES) -> int:
        """Return the bytes that a rank sends to all its neighbours in one exchange; with None, those of all ranks."""
        pixels = self.pixels if rank is None else self.pixels[rank]
        return int(pixels.sum()) * bytes_per_pixel

    def report(self) -> dict[str, Any]:
        """Return what tells a good partition from a poor one, as plain numbers."""
        counts = [len(frames) for frames in self.frames]
        tiles = [int(np.prod(_shape(tile))) for tile in self.tiles]
        sent = self.pixels.sum(axis=1) * COMPLEX64_BYTES
        neighbours = (self.pixels > 0).sum(axis=1)
        return {
            "kind": self.kind,
            "ranks": len(self),
            "frames": {"least": min(counts), "most": max(counts)},
            "imbalance": round(self.imbalance, 4),
            "neighbours": {"mean": round(float(neighbours.mean()), 2), "most": int(neighbours.max())},
            "tile_share": {
                "mean": round(float(np.mean(tiles)) / float(np.prod(self.shape)), 4),
                "most": round(max(tiles) / float(np.prod(self.shape)), 4),
            },
            "halo_bytes": {"mean": int(sent.mean()), "most": int(sent.max()), "all": int(sent.sum())},
        }

    def picture(self, path: str | Path) -> None:
        """Write a picture: owners, tiles and shared pixels, beside the same frames in stripes and at random."""
        from ptycho_bluesky.reconstruction.distributed._picture import draw  # half a second of matplotlib

        kinds: list[PartitionKind] = [self.kind, *(k for k in ("hilbert", "stripes", "random") if k != self.kind)]
        others = [
            Partition.of(
                self.corners, self.frame_size, self.shape, len(self), kind, self.weights, self.margin, self.light
            )
            for kind in kinds[1:]
        ]
        draw([self, *others], Path(path))


def _shape(tile: Box) -> tuple[int, int]:
    return tile[0].stop - tile[0].start, tile[1].stop - tile[1].start


def _within(box: Box, tile: Box) -> Box:
    rows, columns = (
        slice(part.start - whole.start, part.stop - whole.start) for part, whole in zip(box, tile, strict=True)
    )
    return rows, columns


def _covered(reach: npt.NDArray[np.int64], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which pixels lie in any of (n, 2, 2) rectangles: corners counted, then summed over both axes."""
    steps = np.zeros((shape[0] + 1, shape[1] + 1), np.int32)
    (top, bottom), (left, right) = reach.transpose(1, 2, 0)
    for rows, columns, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        np.add.at(steps, (rows, columns), sign)
    return np.asarray(steps.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0)


def _order(
    kind: PartitionKind, corners: npt.NDArray[np.float64], curve: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the order of the frames that ranks take ranges of."""
    if kind == "hilbert":
        return curve
    if kind == "stripes":
        along = int(np.ptp(corners, axis=0).argmax())
        return np.lexsort([corners[:, 1 - along], corners[:, along]]).astype(np.int64)
    if kind == "random":
        return np.random.default_rng(0).permutation(len(corners))
    raise ReconstructionError(f"partition {kind!r} is not known; allowed are hilbert, stripes and random")


def _faults(
    corners: npt.NDArray[np.float64],
    frame_size: int,
    shape: tuple[int, int],
    ranks: int,
    speed: npt.NDArray[np.float64],
    margin: int,
    light: Box,
) -> list[str]:
    if corners.ndim != 2 or corners.shape[-1] != 2 or not np.isfinite(corners).all():
        return [f"corners are {corners.shape}, or not all finite; needed are (N, 2) finite object pixels"]
    faults = []
    if not 1 <= ranks <= len(corners):
        faults.append(f"{ranks} ranks for {len(corners)} frames; each rank needs at least one frame: take fewer ranks")
    if speed.shape != (max(ranks, 0),) or not (np.isfinite(speed) & (speed > 0)).all():
        faults.append(f"weights {speed.tolist()}; needed is one positive number for each of {ranks} ranks")
    if margin < 1:
        faults.append(f"a margin of {margin} pixels; positions between pixels need at least 1")
    if any(not 0 <= part.start < part.stop <= frame_size for part in light):
        faults.append(f"lit part {light} of a frame of {frame_size} pixels; give rows and columns inside of it")
    outside = int(((corners < 0) | (corners + frame_size > np.array(shape))).any(axis=1).sum())
    if outside:
        faults.append(f"{outside} patches reach out of the object {shape}; make it larger, or leave these frames out")
    return faults
