"""The growing image in shared memory: written tile by tile, read whole or only where it has changed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.stream._latest import HEADER, Latest
from ptycho_bluesky.stream._segment import Segment

__all__ = ["ImageSlots", "LiveChanges", "LiveImage", "LiveTile"]

HEAD_BYTES = 4096
TILE = 64
MAPS = ("phase", "amplitude", "coverage", "residual", "confidence")
SINCE_2025 = 1_735_689_600

FloatImage = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LiveImage:
    """The growing image. Every array is (Y, X) float32, NaN where nothing has been measured."""

    phase: FloatImage
    """Radians; a constant and a linear ramp are free, the ramp is taken out."""
    amplitude: FloatImage
    """Transmission; from a network that gives phase alone: how well overlapping patches agree, 1 = fully."""
    coverage: FloatImage
    """Sum of the patches' weights, 1 = one patch of full confidence at its full weight."""
    residual: FloatImage
    """Misfit of the patches that made each pixel (0 perfect, 1 says nothing); NaN where the probe is not known."""
    confidence: FloatImage
    """Of the patches that made each pixel, 1 = as good as the network's best, 0 = not to be trusted."""
    origin: tuple[float, float]
    """Position (row, column) whose frame's patch begins at pixel (0, 0), in metres (object pixels without geometry)."""
    pixel_size: float
    """Side of a pixel in the unit of ``origin``."""
    run_uid: str
    frames: int
    """Frames in it."""
    number: int
    """Grows with each publication, also from one run to the next: unchanged means nothing new."""


@dataclass(frozen=True)
class LiveTile:
    """A part of the image that has changed; arrays are (h, w) float32, as in :class:`LiveImage`."""

    rows: slice
    columns: slice
    phase: FloatImage
    amplitude: FloatImage
    coverage: FloatImage
    residual: FloatImage
    confidence: FloatImage


@dataclass(frozen=True)
class LiveChanges:
    """What has changed in the image since a number; after another ``run_uid``, ``shape`` or ``origin`` all of it."""

    tiles: tuple[LiveTile, ...]
    shape: tuple[int, int]
    """(Y, X) of the whole image."""
    origin: tuple[float, float]
    pixel_size: float
    run_uid: str
    frames: int
    number: int
    """To ask with next time."""


def _tiles(shape: tuple[int, ...]) -> tuple[int, int]:
    return -(-shape[0] // TILE), -(-shape[1] // TILE)


def _layout(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return where the maps of an image begin, and how many bytes it takes."""
    rows, columns = _tiles(shape)
    begin = HEAD_BYTES + 8 * rows * columns
    return begin, begin + 4 * len(MAPS) * shape[0] * shape[1]


class ImageSlots:
    """The published image in a segment; its place is in the segment's first words.

    The numbers of publications count on from the moment at which the segment was made, in milliseconds, faster than
    images are published: they grow over segments, runs and processes.
    """

    def __init__(self, segment: Segment) -> None:
        words = segment.buffer[:24].cast("Q")
        start, capacity, self._base = words[0], words[1], words[2]
        words.release()
        self._latest = Latest(segment.buffer[start : start + Latest.size(capacity)], capacity)

    @staticmethod
    def room(shape: tuple[int, int]) -> int:
        """Return the bytes that two slots for images of `shape` at most take."""
        return HEADER + 2 * ImageSlots._capacity(shape)

    @staticmethod
    def _capacity(shape: tuple[int, int]) -> int:
        return -(-_layout(shape)[1] // 64) * 64

    @classmethod
    def create(cls, segment: Segment, start: int, shape: tuple[int, int]) -> ImageSlots:
        """Make the slots in a new segment, from byte `start` on."""
        words = segment.buffer[:24].cast("Q")
        words[0], words[1], words[2] = start, cls._capacity(shape), int((time.time() - SINCE_2025) * 1000)
        words.release()
        return cls(segment)

    @property
    def next_number(self) -> int:
        """Of the next publication."""
        return self._base + self._latest.published + 1

    def slot(self, shape: tuple[int, int]) -> tuple[npt.NDArray[np.uint64], FloatImage]:
        """Return the slot to be filled: numbers of its tiles, and maps (5, Y, X), as they were two publications ago."""
        slot, (begin, end) = self._latest.slot(), _layout(shape)
        numbers = np.frombuffer(slot[HEAD_BYTES:begin], np.uint64).reshape(_tiles(shape))
        return numbers, np.frombuffer(slot[begin:end], np.float32).reshape(len(MAPS), *shape)

    def publish(self, shape: tuple[int, int], **head: Any) -> None:
        """Show what :meth:`slot` was filled with."""
        text = json.dumps({"shape": shape, **head}).encode().ljust(HEAD_BYTES)
        self._latest.slot()[:HEAD_BYTES] = text
        self._latest.publish(_layout(shape)[1])

    def image(self) -> LiveImage | None:
        """Return a copy of the image; None before the first."""

        def copy(value: memoryview, count: int) -> LiveImage:
            head, _, maps = _unpack(value)
            phase, amplitude, coverage, residual, confidence = np.array(maps)
            return LiveImage(
                phase, amplitude, coverage, residual, confidence, **_place(head), number=self._base + count
            )

        return self._latest.take(copy)

    def changes(self, since: int) -> LiveChanges | None:
        """Return copies of the tiles that have changed after publication `since`; None before the first."""

        def copy(value: memoryview, count: int) -> LiveChanges:
            head, numbers, maps = _unpack(value)
            tiles = []
            for place in np.argwhere(numbers > since).tolist() if since < self._base + count else ():
                rows, columns = (
                    slice(k * TILE, min((k + 1) * TILE, n)) for k, n in zip(place, maps.shape[1:], strict=True)
                )
                tiles.append(LiveTile(rows, columns, *np.array(maps[:, rows, columns])))
            shape = int(maps.shape[1]), int(maps.shape[2])
            return LiveChanges(tuple(tiles), shape, **_place(head), number=self._base + count)

        return self._latest.take(copy)

    def release(self) -> None:
        """Let go of the memory."""
        self._latest.release()


def _unpack(value: memoryview) -> tuple[dict[str, Any], npt.NDArray[np.uint64], FloatImage]:
    head = json.loads(bytes(value[:HEAD_BYTES]))
    shape = int(head["shape"][0]), int(head["shape"][1])
    begin, end = _layout(shape)
    numbers = np.frombuffer(value[HEAD_BYTES:begin], np.uint64).reshape(_tiles(shape))
    return head, numbers, np.frombuffer(value[begin:end], np.float32).reshape(len(MAPS), *shape)


def _place(head: dict[str, Any]) -> dict[str, Any]:
    origin = float(head["origin"][0]), float(head["origin"][1])
    return {
        "origin": origin,
        "pixel_size": float(head["pixel_size"]),
        "run_uid": str(head["run_uid"]),
        "frames": int(head["frames"]),
    }
