"""The measured frames on a device, once, in as few bytes as they need."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._amplitudes import BAD_PIXEL, Amplitudes, Numbers
from ptycho_bluesky.reconstruction.kernels._protocol import DataType

__all__ = ["DeviceFrames", "FramesThere", "decoded", "encoded", "lossless_counts"]

logger = logging.getLogger(__name__)

BAD_COUNT = 65535
"""Stands for a bad pixel among counts."""

ROUNDING = 2.5e-7
"""Of a root in float32, which differs by a last bit from one implementation to another."""

SHARE_OF_MEMORY = 0.5
"""Of the free memory of a GPU, at most for frames that stay there."""

ITEM_SIZE = {"float32": 4, "float16": 2, "uint16": 2}

FloatFrames = npt.NDArray[np.float32]


def lossless_counts(amplitude: FloatFrames) -> bool:
    """Tell whether the amplitudes (n, H, W) are roots of whole numbers up to 65534, so that uint16 loses nothing."""
    good = np.maximum(amplitude, 0)
    counts = np.rint(good * good)
    return bool(counts.max(initial=0) < BAD_COUNT and (np.abs(np.sqrt(counts) - good) <= ROUNDING * good).all())


def encoded(amplitude: FloatFrames, kind: str) -> npt.NDArray[Any]:
    """Return amplitudes (n, H, W) as they are stored; uint16 in the bits of int16, which torch can copy and index.

    Raises
    ------
    ReconstructionError
        When a count or an amplitude is too large for the type.
    """
    if kind == "float32":
        return amplitude
    peak, most = float(amplitude.max(initial=0)), 65504.0 if kind == "float16" else float(np.sqrt(BAD_COUNT - 1))
    if peak > most:
        raise ReconstructionError(
            f"data_type {kind!r} holds up to {most**2:.6g} counts a pixel, the frames have {peak**2:.6g}; take "
            "'float32' or 'auto'" + (" or 'float16'" if kind == "uint16" else "")
        )
    if kind == "float16":
        return amplitude.astype(np.float16)
    counts = np.rint(np.square(np.maximum(amplitude, 0))).astype(np.uint16)
    counts[amplitude < 0] = BAD_COUNT
    return counts.view(np.int16)


def decoded(stored: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the amplitudes (n, H, W), float32, of what :func:`encoded` made."""
    if kind != "uint16":
        return stored.float()
    counts = stored.int() & 0xFFFF
    return torch.where(counts == BAD_COUNT, BAD_PIXEL, counts.double().sqrt().float())


@dataclass(frozen=True)
class FramesThere:
    """A block of frames on a device."""

    frames: Numbers
    """(n,) numbers of the frames, in Hilbert order."""

    rows: Numbers
    """(n,) row of `stored` of each frame."""

    stored: torch.Tensor
    """(K, H, W) of the data type. On a GPU it is the same tensor for every block, which captured graphs rely on."""

    kind: str
    """``"float32"``, ``"float16"`` or ``"uint16"``."""

    def amplitude(self, places: Numbers | slice) -> torch.Tensor:
        """Return (B, H, W) float32, the amplitudes of the frames at some places of the block."""
        rows = torch.from_numpy(self.rows[places]).to(self.stored.device, non_blocking=True)
        return decoded(self.stored[rows], self.kind)


class DeviceFrames:
    """The frames of a problem on a device.

    On a CPU the amplitudes are used where they are. On a GPU all frames stay there when they take less than half of its
    free memory; else each block is copied when its turn comes.

    Parameters
    ----------
    amplitudes:
        Of all frames.
    device:
        Where the frames go.
    data_type:
        ``"auto"`` takes uint16 on a GPU where the frames are whole counts up to 65534, which loses nothing, else
        float32.
    """

    def __init__(self, amplitudes: Amplitudes, device: torch.device, data_type: DataType = "auto") -> None:
        self._amplitudes, self._device = amplitudes, device
        self._kind: str | None = None if data_type == "auto" else data_type
        self._free = _free_bytes(device)
        self._place: torch.Tensor | None = None
        self._resident = False

    @property
    def kind(self) -> str:
        """``"float32"``, ``"float16"`` or ``"uint16"``; found out when first asked for."""
        if self._kind is None:
            counted = self._free is not None and all(
                lossless_counts(block.amplitude[block.rows]) for block in self._amplitudes.load(self._all)
            )
            self._kind = "uint16" if counted else "float32"
        return self._kind

    @property
    def _all(self) -> range:
        return range(len(self._amplitudes.blocks))

    def load(self, order: Sequence[int] | Numbers) -> Iterator[FramesThere]:
        """Yield blocks in the order asked for; those of a GPU must have been used, on its stream, before the next."""
        if self._free is None:
            for block in self._amplitudes.load(order):
                if self.kind == "float32":
                    yield FramesThere(block.frames, block.rows, torch.from_numpy(block.amplitude), self.kind)
                else:
                    packed = self._packed(block.amplitude[block.rows])
                    yield FramesThere(block.frames, np.arange(len(block.frames)), packed, self.kind)
            return
        place = self._fill_place(self._free) if self._place is None else self._place
        if self._resident:
            for number in order:
                frames = self._amplitudes.blocks[number]
                yield FramesThere(frames, frames, place, self.kind)
            return
        for block in self._amplitudes.load(order):
            place[: len(block.frames)].copy_(self._packed(block.amplitude[block.rows]))
            yield FramesThere(block.frames, np.arange(len(block.frames)), place, self.kind)

    def _packed(self, amplitude: FloatFrames) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(encoded(amplitude, self.kind)))

    def _fill_place(self, free: int) -> torch.Tensor:
        """Make the place of the frames on a GPU, and fill it where all of them fit."""
        size, count = self._amplitudes.size, len(self._amplitudes)
        needed = ITEM_SIZE[self.kind] * count * size**2
        self._resident = needed <= SHARE_OF_MEMORY * free
        rows = count if self._resident else max(len(block) for block in self._amplitudes.blocks)
        dtype = {"float32": torch.float32, "float16": torch.float16, "uint16": torch.int16}[self.kind]
        place = torch.empty((rows, size, size), dtype=dtype, device=self._device)
        if self._resident:
            for block in self._amplitudes.load(self._all):
                place[torch.from_numpy(block.frames).to(self._device)] = self._packed(block.amplitude[block.rows]).to(
                    self._device
                )
        where = "stay on" if self._resident else "are streamed to"
        logger.info("%d frames %s %s as %s, %.3g GB", count, where, self._device, self.kind, needed / 1e9)
        self._place = place
        return place


def _free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU; None for a CPU, which has the frames already."""
    return None if device.type == "cpu" else int(torch.cuda.mem_get_info(device)[0])
