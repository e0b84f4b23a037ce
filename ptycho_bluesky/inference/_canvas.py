"""The mosaic's memory: shared, so that viewers see the image and a successor of the edge process goes on with it."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.inference._mosaic import Mosaic
from ptycho_bluesky.stream import Segment
from ptycho_bluesky.stream._live import image_bytes, image_slots, pack_head

__all__ = ["SharedCanvas"]

HEADER = 64
SHOWN_PIXELS = 1 << 20
SHARE_OF_TIME = 0.1
MIN_INTERVAL_S = 0.1


class SharedCanvas:
    """A :class:`Mosaic` in shared segments, and its published, binned image.

    Parameters
    ----------
    session:
        Name of the session; segments are ``<session>-image-<number>``.
    saved:
        What :meth:`state` returned in a predecessor, to go on there.
    """

    def __init__(self, session: str, saved: dict[str, Any] | None = None) -> None:
        self._session, self._segment = session, None if saved is None else Segment.attach(saved["segment"])
        self._number = 0 if saved is None else int(saved["segment"].rsplit("-", 1)[1])
        self._retired: list[Segment] = []
        self._next, self._dirty = 0.0, False
        self.mosaic = Mosaic(self._allocate)
        if saved is not None and self._segment is not None:
            self.mosaic.adopt(
                self._array(self._segment, tuple(saved["shape"])), tuple(saved["start"]), tuple(saved["field"])
            )

    @property
    def name(self) -> str:
        """Of the segment in use; empty before the first patch."""
        return "" if self._segment is None else self._segment.name

    def state(self) -> dict[str, Any] | None:
        """Return what a successor needs, JSON values."""
        if self._segment is None:
            return None
        mosaic = self.mosaic
        shape = list(mosaic.canvas.shape)
        return {"segment": self.name, "shape": shape, "start": list(mosaic.start), "field": list(mosaic.field)}

    @staticmethod
    def _array(segment: Segment, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return np.frombuffer(segment.buffer, np.float32, math.prod(shape), HEADER).reshape(shape)

    @staticmethod
    def _binning(rows: int, columns: int) -> int:
        return max(1, math.ceil(math.sqrt(rows * columns / SHOWN_PIXELS)))

    def _allocate(self, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
        if self._segment is not None:
            self._retired.append(self._segment)
        self._number += 1
        size = HEADER + -(-4 * math.prod(shape) // 64) * 64
        capacity = image_bytes(shape[1] * shape[2] // self._binning(shape[1], shape[2]) ** 2)
        capacity = -(-capacity // 64) * 64
        self._segment = Segment.create(f"{self._session}-image-{self._number}", size + HEADER + 2 * capacity)
        words = self._segment.buffer[:16].cast("Q")
        words[0], words[1] = size, capacity
        words.release()
        return self._array(self._segment, shape)

    def touched(self) -> None:
        """Say that the mosaic has changed."""
        self._dirty = True

    def publish(self, place: dict[str, Any], object_px: float, now: bool = False) -> bool:
        """Show the current image if it has changed and a publication is due; return whether it did.

        Publishing may take a tenth of the time at most, so that a large image does not slow the network down.

        Parameters
        ----------
        place:
            ``run_uid`` and ``frames`` of the image.
        object_px:
            Side of a mosaic pixel, in the unit of the origin.
        now:
            Publish although it is not due.
        """
        begin = time.monotonic()
        if self._segment is None or not self._dirty or (begin < self._next and not now):
            return False
        field = self.mosaic.field
        binning = self._binning(*self.mosaic.canvas.shape[1:])
        maps = np.stack(self.mosaic.maps(binning, level=True))
        origin = [(first + (binning - 1) / 2) * object_px for first in (field[0], field[2])]
        head = pack_head(shape=maps.shape[1:], origin=origin, pixel_size=object_px * binning, **place)
        slots = image_slots(self._segment)
        slots.write(head, maps.data.cast("B"))
        slots.release()
        self._dirty = False
        end = time.monotonic()
        self._next = end + max(MIN_INTERVAL_S, (end - begin) / SHARE_OF_TIME)
        return True

    def retire(self) -> None:
        """Remove the segments that a larger one has replaced; call it when the new name is published."""
        for old in self._retired:
            old.unlink()
            old.close()
        self._retired.clear()

    def close(self) -> None:
        """Let go of the memory; the last image stays for viewers until the session ends."""
        self.retire()
        self.mosaic = Mosaic()
        if self._segment is not None:
            self._segment.close()

    def unlink(self) -> None:
        """Remove the image's name, when the image of the next run replaces it."""
        if self._segment is not None:
            self._segment.unlink()
