"""What processes beside the edge process have to say for its status: each in shared memory of its own."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Literal

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream._latest import Latest
from ptycho_bluesky.stream._segment import Segment, segment_path

__all__ = ["SideNotes", "read_side_notes"]

Who = Literal["feed", "outputs"]
WRITERS: tuple[Who, ...] = ("feed", "outputs")
BYTES = 1 << 14


def _name(session: str, who: Who) -> str:
    return f"{session}-{who}"


class SideNotes:
    """The notes of one writer: fields of :class:`LiveStatus`, JSON values.

    Parameters
    ----------
    session, who:
        Whose status, and which writer this is.
    """

    def __init__(self, session: str, who: Who) -> None:
        name = _name(session, who)
        if segment_path(name) is None:
            self._segment = Segment.create(name, Latest.size(BYTES))
        else:
            self._segment = Segment.attach(name)  # a predecessor's
        self._latest = Latest(self._segment.buffer, BYTES)

    def write(self, **notes: Any) -> None:
        """Publish notes in the place of the last ones."""
        self._latest.write(json.dumps(notes).encode())

    def close(self) -> None:
        """Let go of the memory, and take the notes away."""
        self._latest.release()
        self._segment.unlink()
        self._segment.close()


def read_side_notes(session: str) -> dict[str, Any]:
    """Return all the notes on a session."""
    notes: dict[str, Any] = {}
    for who in WRITERS:
        if segment_path(_name(session, who)) is None:
            continue
        with contextlib.suppress(InferenceError):  # gone in the meantime
            segment = Segment.attach(_name(session, who))
            latest = Latest(segment.buffer, BYTES)
            notes |= json.loads(latest.read() or b"{}")
            latest.release()
            segment.close()
    return notes
