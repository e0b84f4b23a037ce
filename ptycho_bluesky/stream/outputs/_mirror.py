"""A copy of the live image, brought up to date by what has changed in it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.stream._live_image import LiveChanges, LiveTile

__all__ = ["Mirror"]

MAPS = ("phase", "amplitude", "confidence")


class Mirror:
    """The maps that outputs show."""

    def __init__(self) -> None:
        self.maps: dict[str, npt.NDArray[np.float32]] = {}
        """phase, amplitude and confidence, each (Y, X)."""
        self.place: tuple[str, tuple[int, int], tuple[float, float]] | None = None
        """Run, shape and origin."""
        self.pixel_size, self.frames, self.number = 1.0, 0, 0

    def take(self, changes: LiveChanges) -> bool:
        """Put changes in; True where the image is another one now, of which nothing is as it was."""
        place = changes.run_uid, changes.shape, changes.origin
        fresh = place != self.place
        if fresh:
            self.place = place
            self.maps = {name: np.full(changes.shape, np.nan, np.float32) for name in MAPS}
        for tile in changes.tiles:
            for name, whole in self.maps.items():
                whole[tile.rows, tile.columns] = _map(tile, name)
        self.pixel_size, self.frames, self.number = changes.pixel_size, changes.frames, changes.number
        return fresh


def _map(tile: LiveTile, name: str) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = getattr(tile, name)
    return found
