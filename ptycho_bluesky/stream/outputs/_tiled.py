"""The live image as arrays in Tiled that grow while the scan runs, written in pieces of a quarter of a megabyte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_bluesky.config import settings
from ptycho_bluesky.stream._live_image import LiveChanges
from ptycho_bluesky.stream.outputs._mirror import Mirror

if TYPE_CHECKING:
    from tiled.client.container import Container

__all__ = ["TiledOutput"]

LIVE = "live"
CHUNK = 256
"""Side of a piece, pixels: 256 KiB a message."""


class TiledOutput:
    """Writes ``live/SESSION/phase``, ``amplitude`` and ``confidence``; made anew for each run and shape of the image.

    The container's metadata say whose image it is: ``run_uid``, ``frames``, ``origin``, ``pixel_size``.

    Parameters
    ----------
    uri:
        Of the server's interface.
    session:
        Name of the session.
    """

    interval_s = 1.0

    def __init__(self, uri: str, session: str) -> None:
        self._uri, self._session = uri, session
        self._mirror = Mirror()
        self._stale: set[tuple[int, int]] = set()
        """Pieces that the server does not have as they are."""
        self._client: Any = None
        self._arrays: dict[str, Any] = {}

    def show(self, changes: LiveChanges) -> None:
        """Write the pieces that have changed; those not written by the time of an error are written the next time."""
        if self._mirror.take(changes):
            self._arrays.clear()
        for tile in changes.tiles:
            self._stale.add((tile.rows.start // CHUNK, tile.columns.start // CHUNK))
        if not self._arrays:
            self._begin()
        for piece in sorted(self._stale):
            rows, columns = (slice(k * CHUNK, (k + 1) * CHUNK) for k in piece)
            for name, array in self._arrays.items():
                array.write_block(np.ascontiguousarray(self._mirror.maps[name][rows, columns]), piece)
            self._stale.discard(piece)
        self._home().update_metadata(self._metadata(), drop_revision=True)

    def _metadata(self) -> dict[str, Any]:
        mirror = self._mirror
        uid, _, origin = mirror.place or ("", (0, 0), (0.0, 0.0))
        number = {"frames": mirror.frames, "number": mirror.number}
        return {"run_uid": uid, "origin": list(origin), "pixel_size": mirror.pixel_size, **number}

    def _home(self) -> Container:
        """Return this session's container, made where there is none."""
        if self._client is None:
            from tiled.client import from_uri

            key = settings().tiled_api_key
            self._client = from_uri(self._uri, api_key=None if key is None else key.get_secret_value())
        place = self._client
        for name in (LIVE, self._session):
            place = place[name] if name in place else place.create_container(name)
        found: Container = place
        return found

    def _begin(self) -> None:
        """Make the arrays, empty, for an image of the present shape."""
        from tiled.structures.array import ArrayStructure, BuiltinDtype
        from tiled.structures.core import StructureFamily
        from tiled.structures.data_source import DataSource

        home = self._home()
        if old := [name for name in self._mirror.maps if name in home]:
            home.delete_contents(old, external_only=False)
        for name, whole in self._mirror.maps.items():
            chunks = tuple(_pieces(n) for n in whole.shape)
            structure = ArrayStructure(
                shape=whole.shape, chunks=chunks, dims=("y", "x"), data_type=BuiltinDtype.from_numpy_dtype(whole.dtype)
            )
            source = DataSource(structure=structure, structure_family=StructureFamily.array)
            self._arrays[name] = home.new(StructureFamily.array, [source], key=name)
        rows, columns = (range(len(_pieces(n))) for n in self._mirror.maps["phase"].shape)
        self._stale = {(row, column) for row in rows for column in columns}

    def close(self) -> None:
        """Let go of the server."""
        if self._client is not None:
            self._client.context.close()


def _pieces(length: int) -> tuple[int, ...]:
    whole, rest = divmod(length, CHUNK)
    return (CHUNK,) * whole + ((rest,) if rest else ())
