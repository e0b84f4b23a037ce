"""The live image as arrays in Tiled that grow while the scan runs, written in pieces of a quarter of a megabyte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptycho_bluesky.config import settings
from ptycho_bluesky.stream._live_image import LiveChanges
from ptycho_bluesky.stream.outputs._mirror import Mirror
from ptycho_bluesky.stream.outputs._pieces import ChangingImages

if TYPE_CHECKING:
    from tiled.client.container import Container

__all__ = ["TiledOutput"]

LIVE = "live"


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
        self._client: Any = None
        self._images: ChangingImages | None = None

    def show(self, changes: LiveChanges) -> None:
        """Write the pieces that have changed; those not written by the time of an error are written the next time."""
        if self._mirror.take(changes) or self._images is None:
            self._images = None  # also where making the new ones fails: the next image tries again
            maps = self._mirror.maps
            self._images = ChangingImages(self._home(), maps, maps["phase"].shape)
        for tile in changes.tiles:
            self._images.changed(tile.rows, tile.columns)
        self._images.write(self._mirror.maps)
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

    def close(self) -> None:
        """Let go of the server."""
        if self._client is not None:
            self._client.context.close()
