"""Frames compressed as detectors do it, each pattern once."""

from __future__ import annotations

from typing import Any, Literal

import h5py
import hdf5plugin
import lz4.block
import numpy.typing as npt

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream.simulators._detector import Exposure

__all__ = ["Compression", "Compressor", "compress"]

Compression = Literal["none", "bslz4", "lz4", "blosc"]


def compress(pixels: npt.NDArray[Any], compression: Compression) -> bytes:
    """Return a frame as the detector sends it.

    Parameters
    ----------
    pixels:
        (H, W) counts.
    compression:
        ``bslz4`` and ``blosc`` as a chunk of HDF5, with the filter's header; ``lz4`` as one bare block; ``none``.
    """
    if compression == "none":
        return pixels.tobytes()
    if compression == "lz4":
        return bytes(lz4.block.compress(pixels.tobytes(), store_size=False))
    filters = hdf5plugin.Bitshuffle(cname="lz4") if compression == "bslz4" else hdf5plugin.Blosc(cname="lz4")
    with h5py.File("frame", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset("frame", data=pixels, chunks=pixels.shape, **filters)
        return bytes(data.id.read_direct_chunk((0, 0))[1])


class Compressor:
    """Compresses exposures, and remembers what it has compressed.

    Raises
    ------
    SourceError
        When frames are to be corrupted that are not compressed: nobody could tell.
    """

    def __init__(self, compression: Compression) -> None:
        self.compression = compression
        self._made: dict[tuple[int, int], bytes] = {}

    def __call__(self, exposure: Exposure) -> bytes:
        """Return the frame's bytes, half of them where it is to arrive damaged."""
        made = self._made.get(exposure.key)
        if made is None:
            made = self._made[exposure.key] = compress(exposure.pixels, self.compression)
        if not exposure.corrupt:
            return made
        if self.compression == "none":
            raise SourceError("a frame that is not compressed cannot be corrupted visibly; choose a compression")
        return made[: len(made) // 2]
