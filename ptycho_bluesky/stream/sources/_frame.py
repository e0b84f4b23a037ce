"""What every source of frames gives, and how it says that there is no more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from ptycho_bluesky.stream.sources._index_check import SourceCounts

__all__ = ["DamagedFrame", "Source", "SourceEnded", "SourceFrame"]


class DamagedFrame(Exception):
    """A frame that cannot be used; the text is the reason, the same for all frames of its kind."""


class SourceEnded(Exception):
    """The source said that its series has ended, and all its frames have been read.

    A source that can begin another series (Eiger, a ring) can be read on after this.
    """


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One diffraction pattern as the detector delivered it."""

    index: int
    """Number that the source gave it, from 0 (or 1, for some areaDetector drivers) in its series."""
    time: float
    """Seconds since 1970 by the detector's clock; NaN where the source gives none."""
    pixels: npt.NDArray[Any]
    """(H, W), any integer or floating dtype; memory that nothing else writes to, perhaps read-only."""
    series: int = 0
    """0 for the first series that this source saw, one more each time the source started again."""
    arrived: float = math.nan
    """Seconds since 1970 by this machine's clock, when the frame was in hand."""
    position: tuple[float, float] | None = None
    """(y, x) where the frame brings its position along, as frames in a ring do; else None."""


@runtime_checkable
class Source(Protocol):
    """Where frames come from. Also a context manager that closes itself."""

    name: str
    counts: SourceCounts
    connected: bool
    """False while the source cannot be reached; it is looked for until :meth:`close`."""

    def read(self, timeout_s: float) -> list[SourceFrame]:
        """Return what has arrived, in order of arrival; empty where nothing came within `timeout_s`.

        Raises
        ------
        SourceEnded
            Once for each series that the source ended, when its last frame has been read.
        SourceError
            When the source broke off in a way that waiting does not mend.
        """
        ...

    def close(self) -> None:
        """Let go of the source; returns within seconds, whatever state it is in."""
        ...

    def __enter__(self) -> Source: ...

    def __exit__(self, *_: object) -> None: ...
