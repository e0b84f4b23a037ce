"""The latest value of something, published by one process and read by any number, without locks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ptycho_bluesky.errors import InferenceError

__all__ = ["Latest", "fence"]

HEADER = 64
T = TypeVar("T")
_barrier = threading.Lock()


def fence() -> None:
    """Order the memory accesses before against those after, on machines that reorder them (ARM).

    Python has no fences, but taking and releasing a lock is an atomic operation with acquire and release semantics; two
    in a row let nothing pass in either direction.
    """
    with _barrier:
        pass
    with _barrier:
        pass


class Latest:
    """Two slots in shared memory: the writer fills the one that is not shown, then turns a counter.

    A writer killed in mid-write leaves the other slot whole. A reader is disturbed only if two values are published
    while it copies one; then it copies again.

    Parameters
    ----------
    region:
        Shared memory of ``Latest.size(capacity)`` bytes, zero before its first use.
    capacity:
        Largest value in bytes.
    """

    def __init__(self, region: memoryview, capacity: int) -> None:
        self._words = region[:HEADER].cast("Q")  # 0: number of values published; 1, 2: bytes in each slot
        self._slots = tuple(region[HEADER + k * capacity : HEADER + (k + 1) * capacity] for k in (0, 1))
        self.capacity = capacity

    @staticmethod
    def size(capacity: int) -> int:
        """Return the bytes of shared memory for values of `capacity` bytes."""
        return HEADER + 2 * capacity

    @property
    def published(self) -> int:
        """How many values have been published so far."""
        return self._words[0]

    def slot(self) -> memoryview:
        """Return the slot that is not shown, to be filled for :meth:`publish`; it holds the last value but one."""
        return self._slots[(self._words[0] + 1) % 2]

    def publish(self, size: int) -> None:
        """Show the first `size` bytes of :meth:`slot`."""
        count = self._words[0] + 1
        self._words[1 + count % 2] = size
        fence()
        self._words[0] = count

    def write(self, *parts: bytes | memoryview) -> None:
        """Publish `parts`, joined.

        Raises
        ------
        InferenceError
            When they are larger than the capacity.
        """
        size = sum(len(part) for part in parts)
        if size > self.capacity:
            raise InferenceError(f"a value of {size} bytes does not fit into {self.capacity} bytes of shared memory")
        slot, at = self.slot(), 0
        for part in parts:
            slot[at : at + len(part)] = part
            at += len(part)
        self.publish(size)

    def read(self, timeout_s: float = 1.0) -> bytes | None:
        """Return the latest value; None before the first, or if the writer outran every copy for `timeout_s`."""
        return self.take(lambda value, _: bytes(value), timeout_s)

    def take(self, copy: Callable[[memoryview, int], T], timeout_s: float = 1.0) -> T | None:
        """Return ``copy(value, number)`` of the latest value, which must copy what it returns; None as :meth:`read`.

        `copy` may see a value that is being overwritten; then what it returned or raised is thrown away.
        """
        end = time.monotonic() + timeout_s
        while True:
            count = self._words[0]
            if count == 0:
                return None
            fence()
            try:
                copied = copy(self._slots[count % 2][: self._words[1 + count % 2]], count)
            except ValueError:
                if self._words[0] == count:
                    raise
            fence()
            if self._words[0] == count:
                return copied
            if time.monotonic() > end:
                return None

    def release(self) -> None:
        """Let go of the memory, so that its segment can be closed."""
        for view in (self._words, *self._slots):
            view.release()
