"""The mosaic's memory: shared, so that viewers see the image and a successor of the edge process goes on with it."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.inference._level import Plane
from ptycho_bluesky.inference._mosaic import Mosaic
from ptycho_bluesky.stream import Segment
from ptycho_bluesky.stream._live_image import TILE, ImageSlots

__all__ = ["SharedCanvas"]

HEADER = 64
SHOWN_PIXELS = 1 << 20
SHARE_OF_TIME = 0.1
MIN_INTERVAL_S = 0.1
PLANE_INTERVAL_S = 1.0
PLANE_RAD = 0.1
"""By how much the image's ramp may change, anywhere in it, before the whole image is shown anew."""


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
        self._tiles: npt.NDArray[np.uint64] | None = None
        self._plane: Plane | None = None
        self._plane_due = 0.0
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
        number, binning = self._number + 1, self._binning(*shape[1:])
        shown = shape[1] // binning, shape[2] // binning
        size = HEADER + -(-4 * math.prod(shape) // 64) * 64
        segment = Segment.create(f"{self._session}-image-{number}", size + ImageSlots.room(shown))
        ImageSlots.create(segment, size, shown).release()
        if self._segment is not None:
            self._retired.append(self._segment)
        self._segment, self._number, self._tiles = segment, number, None
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
        field, binning = self.mosaic.field, self._binning(*self.mosaic.canvas.shape[1:])
        shape = self.mosaic.shape(binning)
        slots = ImageSlots(self._segment)
        self._mark_changes(slots.next_number, shape, binning, now)
        self._fill(slots, shape, binning)
        origin = [(first + (binning - 1) / 2) * object_px for first in (field[0], field[2])]
        slots.publish(shape, origin=origin, pixel_size=object_px * binning, **place)
        slots.release()
        self._dirty = False
        end = time.monotonic()
        self._next = end + max(MIN_INTERVAL_S, (end - begin) / SHARE_OF_TIME)
        return True

    def _mark_changes(self, number: int, shape: tuple[int, int], binning: int, exactly: bool) -> None:
        """Give each tile that has changed the number of this publication."""
        boxes, count = self.mosaic.take_changes(), tuple(-(-n // TILE) for n in shape)
        whole = boxes is None or self._tiles is None or self._tiles.shape != count or exactly
        now = time.monotonic()
        if whole or now >= self._plane_due:
            plane = self.mosaic.plane(binning)
            self._plane_due = now + PLANE_INTERVAL_S
            if exactly or self._plane is None or plane.away_from(self._plane, shape) > PLANE_RAD:
                self._plane, whole = plane, True
        if whole or self._tiles is None or boxes is None:
            self._tiles = np.full(count, number, np.uint64)
            return
        side = TILE * binning
        for box in boxes:
            r0, r1, c0, c1 = (v - self.mosaic.field[k & 2] for k, v in enumerate(box))
            self._tiles[r0 // side : -(-r1 // side), c0 // side : -(-c1 // side)] = number

    def _fill(self, slots: ImageSlots, shape: tuple[int, int], binning: int) -> None:
        """Bring the slot up to date: it holds the last publication but one, so what changed in the last lacks too."""
        numbers, maps = slots.slot(shape)
        if self._tiles is None:
            return
        old = self._tiles >= slots.next_number - 1
        numbers[:] = self._tiles
        if old.mean() > 0.5:
            maps[:] = self.mosaic.shown(binning, self._plane)
            return
        for row, column in np.argwhere(old):
            rows, columns = (
                slice(k * TILE, min((k + 1) * TILE, n)) for k, n in zip((int(row), int(column)), shape, strict=True)
            )
            maps[:, rows, columns] = self.mosaic.shown(binning, self._plane, rows, columns)

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
