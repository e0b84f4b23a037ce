"""FrameRing: frames and messages from one process to another through shared memory, in order, never blocking."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import select
import struct
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream._latest import fence
from ptycho_bluesky.stream._segment import Segment

__all__ = ["FrameRing", "Kind", "Record"]

MAGIC = 0x31474E4952595450  # "PTYRING1"
HEADER = 256
RECORD = struct.Struct("<IIqddd8sIIQ")  # kind, zero, index, y, x, time, dtype, rows, columns, payload bytes
JSON = b"json\0\0\0\0"

# 64-bit words of the header; the producer's and the consumer's lie on different cache lines
CAPACITY, HEAD, DROPPED, TAIL, TAKEN, BLAMED, SLEEPING = 1, 8, 9, 16, 17, 18, 19


class Kind(enum.IntEnum):
    """What a record is."""

    SKIP = 0
    """The rest of the ring up to its end is empty."""

    FRAME = 1
    """One diffraction pattern with its position."""

    MESSAGE = 2
    """A JSON object."""


@dataclass(frozen=True)
class Record:
    """What the consumer takes from the ring."""

    kind: Kind
    index: int
    """Number of the frame in its run, from 0."""
    y: float
    x: float
    time: float
    """Seconds since 1970 at which it was put."""
    frame: npt.NDArray[Any] | None
    """(H, W), a view into the ring: valid until :meth:`FrameRing.commit`."""
    message: dict[str, Any] | None


class FrameRing:
    """A ring of records in shared memory, for one producer and one consumer in any two processes.

    Records lie back to back (a header of 64 bytes, then the pixels), so that frames of any size, and of several sizes,
    use the memory fully. Two counters of bytes, ``head`` and ``tail``, each written by one side alone, are all the
    synchronisation. The producer never waits: what does not fit is dropped and counted. The consumer *takes* records
    and later *commits* them: whatever was taken but not committed when it died is there again for its successor; a
    record that kills the consumer twice is passed over. A doorbell (FIFO) wakes a waiting consumer; nobody spins.

    Make one with :meth:`create`, open it elsewhere with :meth:`attach`.
    """

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._words = segment.buffer[:HEADER].cast("Q")
        self.capacity = self._words[CAPACITY]
        """Bytes for records."""
        self._data = segment.buffer[HEADER : HEADER + self.capacity]
        self._bytes = np.frombuffer(self._data, np.uint8)
        self._reserve = min(self.capacity // 8, 1 << 17)
        # Read and write: opening never blocks, and neither side gets SIGPIPE or EOF when the other dies.
        self._bell = os.open(segment.path.with_name(segment.path.name + ".bell"), os.O_RDWR | os.O_NONBLOCK)
        self._read = self._careful_until = self._words[TAIL]
        self.passed_over = 0
        """Records given up at :meth:`become_consumer`, because they had killed the consumer twice."""

    @classmethod
    def create(cls, name: str, capacity: int = 64 << 20) -> FrameRing:
        """Make a ring of `capacity` bytes (rounded up to 4 KiB).

        Raises
        ------
        InferenceError
            When the name is taken or there is no room.
        """
        capacity = max(1, -(-capacity // 4096)) * 4096
        segment = Segment.create(name, HEADER + capacity)
        os.mkfifo(segment.path.with_name(segment.path.name + ".bell"), 0o600)
        words = segment.buffer[:HEADER].cast("Q")
        words[CAPACITY], words[0] = capacity, MAGIC
        words.release()
        return cls(segment)

    @classmethod
    def attach(cls, name: str) -> FrameRing:
        """Open the ring `name`, made by any process.

        Raises
        ------
        InferenceError
            When there is none, or it is something else.
        """
        segment = Segment.attach(name)
        if len(segment.buffer) < HEADER or int.from_bytes(segment.buffer[:8], "little") != MAGIC:
            segment.close()
            raise InferenceError(f"shared segment {name!r} is not a frame ring of this version")
        return cls(segment)

    @property
    def name(self) -> str:
        """By which another process attaches."""
        return self._segment.name

    @property
    def dropped(self) -> int:
        """Frames that did not fit, ever."""
        return self._words[DROPPED]

    @property
    def used(self) -> int:
        """Bytes that are put and not committed."""
        return self._words[HEAD] - self._words[TAIL]

    # producer ---------------------------------------------------------------------------------------------------------

    def put(self, frame: npt.NDArray[Any], index: int, y: float, x: float, when: float | None = None) -> bool:
        """Copy a frame (H, W) of numbers into the ring; return False, and count it, where it does not fit.

        Parameters
        ----------
        frame:
            (H, W) counts.
        index:
            Number of the frame in its run.
        y, x:
            Where it was measured, in the unit that reader and writer agree on; NaN where not known.
        when:
            Seconds since 1970 when it came; None for now.
        """
        head = (Kind.FRAME, 0, index, y, x, time.time() if when is None else when, frame.dtype.str.encode())
        done = self._write(head, frame.shape[0], frame.shape[1], frame, self._reserve)
        if not done:
            self.count_drop()
        return done

    def has_room(self, nbytes: int) -> bool:
        """Tell whether a frame of so many bytes fits now."""
        return self._placed(nbytes, self._reserve) is not None

    def count_drop(self) -> None:
        """Count a frame as dropped that the producer did not even try to put."""
        self._words[DROPPED] += 1

    def send(self, message: dict[str, Any]) -> bool:
        """Put a JSON object, for which a part of the ring is kept free of frames; False where it does not fit."""
        payload = np.frombuffer(json.dumps(message).encode(), np.uint8)
        return self._write((Kind.MESSAGE, 0, -1, 0.0, 0.0, time.time(), JSON), 1, len(payload), payload, 0)

    def _placed(self, size: int, reserve: int) -> tuple[int, int, int, int] | None:
        """Return head, place in the ring, bytes to skip before and bytes needed for a payload; None: too large."""
        start, need = self._words[HEAD], RECORD.size + -(-size // 64) * 64
        at = start % self.capacity
        skip = self.capacity - at if at + need > self.capacity else 0
        if start + skip + need + reserve - self._words[TAIL] > self.capacity:
            return None
        return start, at, skip, need

    def _write(self, head: tuple[Any, ...], rows: int, columns: int, payload: npt.NDArray[Any], reserve: int) -> bool:
        size = payload.nbytes
        placed = self._placed(size, reserve)
        if placed is None:
            return False
        start, at, skip, need = placed
        if skip:
            RECORD.pack_into(self._data, at, Kind.SKIP, 0, 0, 0.0, 0.0, 0.0, JSON, 0, 0, 0)
            at = 0
        RECORD.pack_into(self._data, at, *head, rows, columns, size)
        if size:
            target = self._bytes[at + RECORD.size : at + RECORD.size + size]
            np.copyto(target.view(payload.dtype).reshape(payload.shape), payload)
        fence()
        self._words[HEAD] = start + skip + need
        fence()
        if self._words[SLEEPING]:
            self._words[SLEEPING] = 0
            with contextlib.suppress(BlockingIOError):  # a full pipe rings loud enough
                os.write(self._bell, b"!")
        return True

    # consumer ---------------------------------------------------------------------------------------------------------

    def become_consumer(self, timeout_s: float = 5.0) -> None:
        """Claim the reading end; call once before the first :meth:`take`.

        Raises
        ------
        InferenceError
            When another living process holds it.
        """
        end = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._bell, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    text = f"ring {self.name!r} has a living consumer already; a ring has one: stop that process first"
                    raise InferenceError(text) from None
                time.sleep(0.02)
        tail, taken = self._words[TAIL], self._words[TAKEN]
        if taken > tail and self._words[BLAMED] == tail + 1:
            self.passed_over = sum(1 for record in self._records(tail, taken) if record[1].kind is Kind.FRAME)
            self._words[TAIL] = tail = taken
        self._careful_until = taken
        self._read = tail

    def take(self, limit: int) -> list[Record]:
        """Return what is there, `limit` records at most; a message always comes alone.

        What a consumer had taken that died comes one by one, so that the record that killed it is known.
        """
        if self._read < self._careful_until:
            limit = 1
            self._words[BLAMED] = self._read + 1  # + 1, for 0 means that nobody is blamed
        head = self._words[HEAD]
        fence()
        found: list[Record] = []
        for position, record in self._records(self._read, head):
            if found and record.kind is Kind.MESSAGE:
                break
            found.append(record)
            self._read = position
            if len(found) == limit or record.kind is Kind.MESSAGE:
                break
        self._words[TAKEN] = self._read
        return found

    def _records(self, start: int, stop: int) -> Any:
        while start < stop:
            at = start % self.capacity
            kind, _, index, y, x, when, dtype, rows, columns, size = RECORD.unpack_from(self._data, at)
            if kind == Kind.SKIP:
                start += self.capacity - at
                continue
            start += RECORD.size + -(-size // 64) * 64
            raw = self._bytes[at + RECORD.size : at + RECORD.size + size]
            if kind == Kind.FRAME:
                frame = raw.view(np.dtype(dtype.rstrip(b"\0").decode())).reshape(rows, columns)
                yield start, Record(Kind.FRAME, index, y, x, when, frame, None)
            else:
                yield start, Record(Kind.MESSAGE, index, y, x, when, None, json.loads(raw.tobytes()))

    @property
    def position(self) -> int:
        """Bytes taken so far, to be given to :meth:`commit`."""
        return self._read

    def commit(self, position: int | None = None) -> None:
        """Give the memory of all that was taken (or up to `position`) back to the producer."""
        position = self._read if position is None else position
        if position > self._read:
            self._read = position
        fence()
        self._words[TAIL] = max(position, self._words[TAIL])

    def wait(self, timeout_s: float) -> bool:
        """Sleep until there is something to take, `timeout_s` at most; return whether there is."""
        if self._words[HEAD] != self._read:
            return True
        self._words[SLEEPING] = 1
        fence()
        if self._words[HEAD] == self._read and select.select([self._bell], [], [], timeout_s)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 4096)
        self._words[SLEEPING] = 0
        return self._words[HEAD] != self._read

    # both -------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the ring; it stays for the other side. Frames taken from it must not be used any more."""
        if self._bell < 0:
            return
        os.close(self._bell)
        self._bell = -1
        del self._bytes
        with contextlib.suppress(BufferError):
            self._words.release()
            self._data.release()
        self._segment.close()

    def unlink(self) -> None:
        """Remove the ring's name; its memory goes when both sides have closed it."""
        self._segment.unlink()
        self._segment.path.with_name(self._segment.path.name + ".bell").unlink(missing_ok=True)

    def __enter__(self) -> FrameRing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
