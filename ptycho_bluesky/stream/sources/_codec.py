"""Compressed frames to pixels: bslz4, lz4 and blosc, as DECTRIS detectors, areaDetector and HDF5 write them.

Every decoder here is safe against damaged input; the filters of HDF5 are not (a chunk cut short can end the process),
so they are not used. bslz4 needs ``dectris-compression`` (extra ``edge``) for speed; without it, NumPy and ``lz4`` do
the same, a hundred times slower.

Container of bslz4 (the HDF5 bitshuffle filter's): 8 bytes big-endian size, 4 bytes big-endian block size, then for each
block 4 bytes big-endian length and an LZ4 block of bit-shuffled elements; up to 7 last elements as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import lz4.block
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.stream.sources._frame import DamagedFrame

__all__ = ["CODECS", "decompress"]

CODECS = ("", "none", "bslz4", "lz4", "blosc")
HEADER = struct.Struct(">QI")
BLOCK = struct.Struct(">I")
SHUFFLED_BLOCK = 8192
DECODING_ERRORS = (RuntimeError, ValueError, SystemError, MemoryError, struct.error, lz4.block.LZ4BlockError)

Bytes = bytes | memoryview


@cache
def _dectris() -> Callable[..., bytes] | None:
    try:
        from dectris.compression import decompress as found
    except ImportError:
        return None
    return found  # type: ignore[no-any-return]


def decompress(data: Bytes, codec: str, dtype: npt.DTypeLike, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Return the pixels (H, W) in `data`; a view of it where it is not compressed.

    Parameters
    ----------
    data:
        One frame, bytes that do not change. bslz4 and lz4 with the header of the HDF5 filter, or without, as
        areaDetector and the Eiger's stream 1 (lz4) send them.
    codec:
        One of ``CODECS``.
    dtype, shape:
        Of the pixels.

    Raises
    ------
    DamagedFrame
        When the data do not give that many pixels.
    """
    dtype = np.dtype(dtype)
    size = dtype.itemsize * shape[0] * shape[1]
    if codec not in CODECS:
        raise DamagedFrame(f"codec {codec!r} is not known here; known are {', '.join(CODECS[1:])}")
    raw: Bytes
    if codec in ("", "none"):
        raw = data
    else:
        try:
            raw = _DECODERS[codec](data, size, dtype.itemsize)
        except DECODING_ERRORS as error:
            raise DamagedFrame(f"{codec} data cannot be decompressed") from error
    if len(raw) != size:
        raise DamagedFrame(f"{len(raw)} bytes of pixels instead of {size}")
    return np.frombuffer(raw, dtype).reshape(shape)


def _with_header(data: Bytes, size: int, header: bytes) -> Bytes:
    """Return `data` with the container's header in front, where it is not there yet."""
    if bytes(data[:8]) == header[:8]:
        return data
    return header + bytes(data)


def _bslz4(data: Bytes, size: int, item: int) -> bytes:
    whole = _with_header(data, size, HEADER.pack(size, SHUFFLED_BLOCK))
    fast = _dectris()
    return fast(whole, "bslz4", elem_size=item) if fast is not None else _unshuffled(whole, size, item)


def _unshuffled(data: Bytes, size: int, item: int) -> bytes:
    """Decompress bslz4 by NumPy."""
    block, at, done, out = HEADER.unpack_from(data)[1], HEADER.size, 0, np.empty(size, np.uint8)
    group = 8 * item
    if block < group or block % group:
        raise ValueError(f"block size {block}")
    while size - done >= group:
        use = min(block, (size - done) // group * group)
        (length,) = BLOCK.unpack_from(data, at)
        part = data[at + BLOCK.size : at + BLOCK.size + length]
        planes = np.frombuffer(lz4.block.decompress(part, uncompressed_size=use), np.uint8).reshape(group, -1)
        bits = np.unpackbits(planes, axis=1, bitorder="little")
        out[done : done + use] = np.packbits(bits.T, axis=1, bitorder="little").ravel()
        at, done = at + BLOCK.size + length, done + use
    out[done:] = np.frombuffer(data[at : at + size - done], np.uint8)
    return out.tobytes()


def _lz4(data: Bytes, size: int, item: int) -> bytes:
    if len(data) < HEADER.size + BLOCK.size or HEADER.unpack_from(data)[0] != size:
        return bytes(lz4.block.decompress(data, uncompressed_size=size))
    block, at, parts, left = HEADER.unpack_from(data)[1], HEADER.size, [], size
    while left > 0:
        (length,) = BLOCK.unpack_from(data, at)
        part, use = data[at + BLOCK.size : at + BLOCK.size + length], min(block, left)
        if use == 0:
            raise ValueError("block size 0")
        parts.append(bytes(part) if length == use else lz4.block.decompress(part, uncompressed_size=use))
        at, left = at + BLOCK.size + length, left - use
    return b"".join(parts)


def _blosc(data: Bytes, size: int, item: int) -> bytes:
    import blosc2

    _check_blosc(data, size)
    return bytes(blosc2.decompress(data))


def _check_blosc(data: Bytes, size: int) -> None:
    """Refuse what is no whole container of Blosc 1, on which the library would read or write beyond its memory.

    16 bytes (format version, codec's version, flags, bytes an element, sizes of the frame, of a block and of the
    container), the beginnings of all blocks, and the blocks; those in streams, each with its length in front.
    """
    version, _, flags, item, whole, block, packed = struct.unpack_from("<BBBBIII", data)
    if version != 2 or flags & 5 == 5 or not item or whole != size or packed != len(data) or not 0 < block <= size:
        raise ValueError("header")
    if flags & 2:  # stored as it is
        if packed != size + 16:
            raise ValueError("length of a copy")
        return
    blocks = -(-size // block)
    starts = struct.unpack_from(f"<{blocks}I", data, 16)
    if min(starts) < 16 + 4 * blocks or sorted(starts) != list(starts):
        raise ValueError("beginnings of blocks")
    for number, start in enumerate(starts):
        last = number == blocks - 1 and size % block > 0
        split = not flags & 16 and item <= 16 and not last and block // item >= 128
        for _ in range(item if split else 1):
            (length,) = struct.unpack_from("<I", data, start)
            start += 4 + length
            if start > len(data):
                raise ValueError("length of a block")


_DECODERS: dict[str, Callable[[Bytes, int, int], bytes]] = {"bslz4": _bslz4, "lz4": _lz4, "blosc": _blosc}
