"""Pixels as the browser takes them: whole numbers over a fixed range, 0 where nothing was measured.

Sixteen bits for phase and amplitude: colour map, limits and the value under the pointer are then the browser's affair,
and 25 rad in 65,535 steps (0.4 mrad) leave nothing to see of the rounding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.stream import LiveTile

__all__ = ["LAYERS", "encode_frame", "encode_layer", "encode_picture", "encode_tiles", "pack"]

LAYERS: dict[str, tuple[float, float, int]] = {
    "phase": (-4 * math.pi, 4 * math.pi, 16),
    "amplitude": (0.0, 4.0, 16),
    "confidence": (0.0, 1.0, 8),
    "coverage": (0.0, 16.0, 8),
}
"""Name, lowest and highest value, bits. Values beyond are shown as the nearest."""

FRAME_SIDE = 256
PICTURE_SIDE = 1024
PATH_POINTS = 20_000


def encode_layer(name: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return 0 for NaN, else 1 to 2^bits - 1 over the range of the layer; `values` (float32) are overwritten."""
    low, high, bits = LAYERS[name]
    top = (1 << bits) - 1
    scale = (top - 1) / (high - low)
    values *= np.float32(scale)
    values += np.float32(1.5 - low * scale)
    np.clip(values, 1, top, out=values)
    np.fmax(values, 0, out=values)  # of NaN and 0 it takes 0
    return values.astype(np.uint16 if bits == 16 else np.uint8)


def encode_tiles(tiles: Sequence[LiveTile], layers: Sequence[str]) -> tuple[list[list[int]], list[npt.NDArray[Any]]]:
    """Return the tiles' places, (row, column, height, width) each, and a layer's pixels one tile after another."""
    places = [[t.rows.start, t.columns.start, *t.phase.shape] for t in tiles]
    return places, [encode_layer(name, np.concatenate([getattr(t, name).ravel() for t in tiles])) for name in layers]


def encode_picture(name: str, values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], int]:
    """Return a layer of a picture, thinned to 1,024 pixels a side at most, and by how much it was thinned."""
    step = -(-max(values.shape) // PICTURE_SIDE)
    return encode_layer(name, np.array(values[::step, ::step], np.float32, order="C")), step


def encode_frame(pixels: npt.NDArray[Any], mask: npt.NDArray[np.bool_] | None) -> tuple[npt.NDArray[np.uint8], float]:
    """Return a frame's logarithm as 1 to 255, 0 where masked, 256 pixels a side at most; and its largest count.

    Where it is made smaller, each pixel is the largest of those it stands for: a lone hot one must not vanish.
    """
    step = -(-max(pixels.shape) // FRAME_SIDE)
    counts = np.asarray(pixels, np.float32)
    good = np.isfinite(counts) if mask is None else ~mask & np.isfinite(counts)
    counts = np.where(good, np.maximum(counts, 0), np.float32(-1))
    if step > 1:
        rows, columns = (-(-n // step) * step for n in counts.shape)
        counts = np.pad(counts, ((0, rows - counts.shape[0]), (0, columns - counts.shape[1])), constant_values=-1)
        counts = counts.reshape(rows // step, step, columns // step, step).max((1, 3))
    top = float(max(counts.max(), 1.0))
    shown = 1.5 + np.log1p(np.maximum(counts, 0)) * np.float32(254 / math.log1p(top))
    return np.where(counts < 0, np.float32(0), shown).astype(np.uint8), top


def pack(header: dict[str, Any], buffers: Sequence[Any]) -> bytes:
    """Join a message into one piece for a WebSocket: length of the header (uint32, little endian), header, buffers.

    The header, JSON, is told the sizes of the buffers and padded with blanks, so that each begins at a multiple of 8
    bytes: the browser then looks at them without a copy.
    """
    parts = [memoryview(b).cast("B") for b in buffers]
    text = json.dumps({**header, "sizes": [p.nbytes for p in parts]}, allow_nan=False).encode()
    text += b" " * (-(4 + len(text)) % 8)
    blocks: list[bytes | memoryview] = [len(text).to_bytes(4, "little"), text]
    for part in parts:
        blocks += [part, bytes(-part.nbytes % 8)]
    return b"".join(blocks)
