"""Images in Tiled that change: arrays written in pieces of a quarter of a megabyte, so that a websocket takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PIECE", "ChangingImages"]

PIECE = 256
"""Side of a piece, pixels: 256 KiB a message. Over 1 MB a subscriber's websocket would end without a word."""


class ChangingImages:
    """Arrays (Y, X) float32 of one shape in a container of Tiled, updated in place.

    Parameters
    ----------
    home:
        Tiled client of the container; arrays of the same names that lie there are replaced.
    names:
        Keys of the arrays.
    shape:
        (Y, X) of each.
    """

    def __init__(self, home: Any, names: Iterable[str], shape: tuple[int, int]) -> None:
        from tiled.structures.array import ArrayStructure, BuiltinDtype
        from tiled.structures.core import StructureFamily
        from tiled.structures.data_source import DataSource

        self.shape, self._arrays = shape, {}
        rows, columns = (_pieces(n) for n in shape)
        structure = ArrayStructure(
            shape=shape, chunks=(rows, columns), dims=("y", "x"), data_type=BuiltinDtype.from_numpy_dtype(FLOAT)
        )
        wanted = list(names)
        if old := [name for name in wanted if name in home]:
            home.delete_contents(old, external_only=False)
        for name in wanted:
            source = DataSource(structure=structure, structure_family=StructureFamily.array)
            self._arrays[name] = home.new(StructureFamily.array, [source], key=name)
        self.stale = {(row, column) for row in range(len(rows)) for column in range(len(columns))}
        """Pieces that the server does not have as they are."""

    def changed(self, rows: slice, columns: slice) -> None:
        """Mark what lies in `rows` and `columns` as not written."""
        span = [range(part.start // PIECE, (part.stop - 1) // PIECE + 1) for part in (rows, columns)]
        self.stale |= {(row, column) for row in span[0] for column in span[1]}

    def write(self, images: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Write the pieces that changed, of images (Y, X) by their names.

        Those not written by the time of an error are written the next time.
        """
        for piece in sorted(self.stale):
            rows, columns = (slice(k * PIECE, (k + 1) * PIECE) for k in piece)
            for name, array in self._arrays.items():
                array.write_block(np.ascontiguousarray(images[name][rows, columns], FLOAT), piece)
            self.stale.discard(piece)


FLOAT = np.dtype(np.float32)


def _pieces(length: int) -> tuple[int, ...]:
    whole, rest = divmod(length, PIECE)
    return (PIECE,) * whole + ((rest,) if rest else ())
