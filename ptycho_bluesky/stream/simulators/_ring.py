"""A producer at a ring in shared memory."""

from __future__ import annotations

import math
import time

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream._ring import FrameRing
from ptycho_bluesky.stream.simulators._detector import Exposure

__all__ = ["RingTransmitter"]

WAIT_S = 1e-4


class RingTransmitter:
    """Makes the ring `name` and puts frames into it; removes the name at the end.

    Parameters
    ----------
    name:
        Of the ring; must be free.
    capacity_mb:
        Its size in MB (1e6 bytes).
    patience_s:
        How long a frame waits for room before it is dropped, and the end for the last frame to be read; a real producer
        does not wait.
    """

    def __init__(self, name: str, capacity_mb: float = 64.0, patience_s: float = 0.0) -> None:
        self.uri = f"ring://{name}"
        self._ring = FrameRing.create(name, int(capacity_mb * 1e6))
        self._patience_s = patience_s

    def begin(self, series: int, first: Exposure) -> None:
        """Put the start of a run, with the number of the `series`; of the `first` frame nothing need be told."""
        self._message({"type": "start", "series": series})

    def send(self, exposure: Exposure) -> bool:
        """Put a frame; False where there is no room for it.

        Raises
        ------
        SourceError
            When it is to be corrupted, which nobody would see.
        """
        if exposure.corrupt:
            raise SourceError("frames in a ring are not compressed and cannot be corrupted visibly")
        y, x = exposure.position or (math.nan, math.nan)
        end = time.monotonic() + self._patience_s
        room = exposure.pixels.nbytes + (1 << 18)
        while self._ring.used + room > self._ring.capacity and time.monotonic() < end:
            time.sleep(WAIT_S)
        return self._ring.put(exposure.pixels, exposure.index, y, x, exposure.time)

    def end(self, series: int) -> None:
        """Put the end of the run."""
        self._message({"type": "stop", "uid": f"simulated-{series}", "exit_status": "success"})

    def _message(self, message: dict[str, object]) -> None:
        end = time.monotonic() + 5.0
        while not self._ring.send(message):
            if time.monotonic() > end:
                raise SourceError(f"{self.uri} is full and nobody reads it: the message {message['type']!r} is lost")
            time.sleep(WAIT_S)

    def close(self) -> None:
        """Remove the ring's name; what is in it stays for a reader that has it open."""
        end = time.monotonic() + self._patience_s
        while self._ring.used and time.monotonic() < end:
            time.sleep(WAIT_S)
        self._ring.unlink()
        self._ring.close()
