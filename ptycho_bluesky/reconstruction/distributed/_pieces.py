"""Pieces of an object: what single ranks have of it, and one image of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.reconstruction._model import ComplexArray
from ptycho_bluesky.reconstruction.distributed._partition import Box

__all__ = ["Piece", "blend", "illumination", "shape_of"]

DARK = 1e-9
"""Of the brightest pixel, below which nothing is known of the object."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of the object as one rank has it."""

    box: Box
    """Rows and columns of the whole object."""

    object: ComplexArray
    """(slices, Y, X)."""

    weight: npt.NDArray[np.float32]
    """(Y, X) light that the rank's frames sent there."""


def shape_of(box: Box) -> tuple[int, int]:
    """Return the rows and columns of a rectangle."""
    return box[0].stop - box[0].start, box[1].stop - box[1].start


def illumination(
    corners: npt.NDArray[np.float64], probe: ComplexArray, shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Return (Y, X), the intensity of a probe (sets, M, H, W) summed over frames, some of them partly or all outside.

    Frames are added in their order: ranks that do the same sum get the same bits.
    """
    intensity = (np.abs(probe) ** 2).sum(axis=(0, 1), dtype=np.float32)
    size, found = intensity.shape[-1], np.zeros(shape, np.float32)
    places = np.rint(corners).astype(np.int64)
    touching = ((places > -size) & (places < np.array(shape))).all(axis=1)
    for y, x in places[touching].tolist():
        top, left = max(y, 0), max(x, 0)
        part = found[top : y + size, left : x + size]
        part += intensity[top - y :, left - x :][: part.shape[0], : part.shape[1]]
    return found


def blend(pieces: Iterable[Piece], box: Box, slices: int) -> tuple[ComplexArray, npt.NDArray[np.float32]]:
    """Return (slices, Y, X), the object in a rectangle as the mean of all pieces, weighted with their light; and that.

    What no piece knows is 1.
    """
    shape = shape_of(box)
    total, weight = np.zeros((slices, *shape), np.complex64), np.zeros(shape, np.float32)
    for piece in pieces:
        rows, columns = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, piece.box, strict=True))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        here = np.s_[
            rows.start - box[0].start : rows.stop - box[0].start,
            columns.start - box[1].start : columns.stop - box[1].start,
        ]
        there = np.s_[
            rows.start - piece.box[0].start : rows.stop - piece.box[0].start,
            columns.start - piece.box[1].start : columns.stop - piece.box[1].start,
        ]
        weight[here] += piece.weight[there]
        total[:, *here] += piece.weight[there] * piece.object[:, *there]
    known = weight > DARK * weight.max(initial=0)
    return np.where(known, total / np.where(known, weight, 1), 1).astype(np.complex64), weight
