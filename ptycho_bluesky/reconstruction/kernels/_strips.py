"""How the CPU kernels lay out waves, probe and object, and the ways there and back.

Waves are planar and cut into strips of 16 columns, (..., strips, rows, 2, 16) float32 with `rows` a multiple of 16 (see
:mod:`ptycho_bluesky.transforms`); what pads a frame to whole strips is zero. A tile, part of the object, is
(Y + 2, 2, X + 18) float32: of each row the real parts, then the imaginary ones, with one pixel around it and a strip's
room to the right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.transforms import FASTMATH, LANES, Plan, aligned, load, plan_for, store

__all__ = [
    "Optics",
    "Room",
    "add_tile",
    "cached",
    "frame_of",
    "illuminate",
    "met_of",
    "optics_for",
    "room_for",
    "settle",
    "strips_of",
    "tile_of",
    "waves_of",
]

_F = TypeVar("_F", bound=Callable[..., Any])

cached: Callable[[_F], _F] = numba.njit(nogil=True, error_model="numpy", fastmath=FASTMATH, cache=True)


class Optics(NamedTuple):
    """What the way from sample to detector needs."""

    plan: Plan
    order: npt.NDArray[np.int64]
    """(rows,) frequency at each place of a spectrum."""
    places: npt.NDArray[np.int64]
    """(rows,) place of each frequency."""
    transfer: npt.NDArray[np.float32]
    """(strips, rows, 2, 16) of the near field, transposed and in the transform's order, divided by the number of
    pixels; no strips in the far field."""
    scale: float
    """That makes one way unitary."""


class Room(NamedTuple):
    """Where one thread works."""

    waves: npt.NDArray[np.float32]
    """(strips, M, rows, 2, 16)"""
    strips: npt.NDArray[np.float32]
    """(2, M, rows, 2, 16)"""
    measured: npt.NDArray[np.float32]
    """(rows, 16)"""


def _padded(size: int) -> int:
    return -(-size // LANES) * LANES


def optics_for(size: int, transfer: npt.NDArray[np.complex64]) -> Optics:
    """Return the optics for frames of size x size and a transfer function, empty in the far field."""
    plan, rows = plan_for(size), _padded(size)
    order, places = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    order[:size], places[:size] = plan.order, np.argsort(plan.order)
    if not transfer.size:
        return Optics(plan, order, places, np.zeros((0, rows, 2, LANES), np.float32), 1 / size)
    turned = transfer[np.ix_(plan.order, plan.order)].T / np.float32(size**2)
    return Optics(plan, order, places, strips_of(turned.astype(np.complex64)), 1.0)


def room_for(size: int, modes: int) -> Room:
    """Return the room of one thread."""
    rows = _padded(size)
    return Room(
        aligned((rows // LANES, modes, rows, 2, LANES)),
        aligned((2, modes, rows, 2, LANES)),
        aligned((rows, LANES)),
    )


def strips_of(waves: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    """Return complex waves (..., H, W) as strips (..., strips, rows, 2, 16)."""
    *outer, height, width = waves.shape
    strips = aligned((*outer, _padded(width) // LANES, _padded(height), 2, LANES))
    for first in range(0, width, LANES):
        part = waves[..., first : first + LANES]
        for plane, values in enumerate((part.real, part.imag)):
            strips[..., first // LANES, :height, plane, : part.shape[-1]] = values
    return strips


def waves_of(strips: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.complex64]:
    """Return strips as complex waves (..., size, size)."""
    waves = np.empty((*strips.shape[:-4], size, size), np.complex64)
    for first in range(0, size, LANES):
        part = waves[..., first : first + LANES]
        part.real, part.imag = (strips[..., first // LANES, :size, plane, : part.shape[-1]] for plane in (0, 1))
    return waves


def met_of(frame: npt.NDArray[np.float32], optics: Optics) -> npt.NDArray[np.float32]:
    """Return a frame (H, W) as strips (strips, rows, 16), in the order in which a pass meets the detector."""
    size, order = len(frame), optics.plan.order
    met = aligned((_padded(size) // LANES, _padded(size), LANES))
    placed = frame if optics.transfer.shape[0] else frame[np.ix_(order, order)].T
    for first in range(0, size, LANES):
        part = placed[:, first : first + LANES]
        met[first // LANES, :size, : part.shape[-1]] = part
    return met


def frame_of(met: npt.NDArray[np.float32], optics: Optics) -> npt.NDArray[np.float32]:
    """Undo :func:`met_of`."""
    size, order = optics.plan.length, optics.plan.order
    placed = np.concatenate(list(met), axis=1)[:size, :size]
    if optics.transfer.shape[0]:
        return placed
    frame = np.empty_like(placed)
    frame[np.ix_(order, order)] = placed.T
    return frame


@cached
def tile_of(obj: Any) -> Any:
    """Return a part of the object (Y, X), complex, as a tile (Y + 2, 2, X + 2 and more), edges repeated."""
    height, width = obj.shape
    tile = np.zeros((height + 2, 2, width + 2 + LANES), np.float32)
    for i in range(height + 2):
        line = obj[min(max(i - 1, 0), height - 1)]
        for j in range(width + 2):
            value = line[min(max(j - 1, 0), width - 1)]
            tile[i, 0, j], tile[i, 1, j] = value.real, value.imag
    return tile


@cached
def illuminate(probes: Any, visits: Any, weight: Any) -> None:
    """Add the intensity of probes (M, strips, rows, 2, 16) to weight (Y, X + 16) at the corner of each visit."""
    size = min(probes.shape[2], weight.shape[0])
    intensity = np.zeros((probes.shape[1], size, LANES), np.float32)
    for m in range(probes.shape[0]):
        for s in range(probes.shape[1]):
            for i in range(size):
                p, pi = load(probes, (m, s, i, 0, 0)), load(probes, (m, s, i, 1, 0))
                store(intensity, (s, i, 0), load(intensity, (s, i, 0)) + p * p + pi * pi)
    for k in range(visits.shape[0]):
        _, y, x, _ = visits[k]
        for s in range(intensity.shape[0]):
            for i in range(min(size, weight.shape[0] - y)):
                place = (y + i, x + s * LANES)
                store(weight, place, load(weight, place) + load(intensity, (s, i, 0)))


@cached
def add_tile(tile: Any, weight: Any, y: int, x: int, first: int, last: int, merged: Any, weights: Any) -> None:
    """Add rows `first` to `last` of the object that a tile with its corner at (y, x) holds to merged, times weight."""
    for i in range(max(first, y), min(last, y + tile.shape[0] - 2)):
        for j in range(tile.shape[2] - 2 - LANES):
            w = weight[i - y, j]
            weights[i, x + j] += w
            merged[i, x + j] += complex(w * tile[i - y + 1, 0, j + 1], w * tile[i - y + 1, 1, j + 1])


@cached
def settle(merged: Any, weights: Any, first: int, last: int, obj: Any) -> None:
    """Write rows `first` to `last` of the weighted mean to obj (Y, X) wherever something was added."""
    for i in range(first, last):
        for j in range(obj.shape[1]):
            if weights[i, j] > 0:
                obj[i, j] = merged[i, j] / weights[i, j]
