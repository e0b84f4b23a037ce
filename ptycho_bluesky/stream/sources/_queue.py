"""Between the thread that receives frames and the reader: a queue of bounded size, and what to do when it is full."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ptycho_bluesky.stream.sources._frame import SourceEnded, SourceFrame

__all__ = ["BackPressure", "FrameQueue"]


class BackPressure(BaseModel):
    """What happens to frames that arrive faster than they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Literal["block", "drop-oldest", "sample"] = "block"
    """``block``: stop receiving, so that the detector's own buffer fills (PVA has none worth the name: frames are
    lost there, and counted as dropped). ``drop-oldest``: keep the newest, for an image that must not lag. ``sample``:
    keep every second frame of the queue and of what follows, every fourth when that is not enough, and so on, until
    the reader has caught up: the whole scan thinly rather than a part of it densely."""

    capacity_mb: float = Field(default=512.0, gt=0, le=1e6)
    """Pixels that the queue holds, in MB (1e6 bytes); one frame always fits."""


class FrameQueue:
    """Frames and ends of series in order of arrival, for one thread that puts and one that takes."""

    def __init__(self, back_pressure: BackPressure) -> None:
        self._policy, self._capacity = back_pressure.policy, int(back_pressure.capacity_mb * 1e6)
        self._items: deque[SourceFrame | SourceEnded] = deque()
        self._bytes = 0
        self._keep, self._turn = 1, 0  # of `sample`: every how many frames, and where in that count
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: SourceFrame | SourceEnded) -> int:
        """Add an item, waiting where the policy is ``block``; return how many frames were discarded for it."""
        size = item.pixels.nbytes if isinstance(item, SourceFrame) else 0
        discarded = 0
        with self._changed:
            if self._policy == "sample" and size:
                self._turn += 1
                if self._turn % self._keep:
                    return 1
            while self._bytes and self._bytes + size > self._capacity and not self._closed:
                if self._policy == "block":
                    self._changed.wait()
                else:
                    discarded += self._thin() if self._policy == "sample" else self._forget_oldest()
            self._items.append(item)
            self._bytes += size
            self._changed.notify_all()
        return discarded

    def _forget_oldest(self) -> int:
        for k, item in enumerate(self._items):
            if isinstance(item, SourceFrame):
                del self._items[k]
                self._bytes -= item.pixels.nbytes
                return 1
        return 0

    def _thin(self) -> int:
        kept: deque[SourceFrame | SourceEnded] = deque()
        size = frames = 0
        for item in self._items:
            if isinstance(item, SourceFrame):
                frames += 1
                if frames % 2 == 0:
                    continue
                size += item.pixels.nbytes
            kept.append(item)
        if frames == 1:
            return self._forget_oldest()
        self._items, self._bytes, self._keep = kept, size, self._keep * 2
        return frames // 2

    def take(self, timeout_s: float) -> list[SourceFrame]:
        """Return the frames up to the next end of a series; raise that end where it comes first."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while not self._items and not self._closed:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            taken: list[SourceFrame] = []
            while self._items:
                item = self._items[0]
                if isinstance(item, SourceEnded):
                    if taken:
                        break
                    self._items.popleft()
                    raise item
                taken.append(item)
                self._items.popleft()
                self._bytes -= item.pixels.nbytes
            if not self._items:
                self._keep = 1
            self._changed.notify_all()
        return taken

    def close(self) -> None:
        """Wake whoever waits; nothing waits any more after this."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
