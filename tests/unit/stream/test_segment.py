"""Named shared memory while it is being made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream import Segment


def test_a_segment_that_is_just_being_made_is_not_there_yet() -> None:
    made = Segment.create("half-made", 4096)
    try:
        os.truncate(made.path, 0)
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(InferenceError, match="no shared segment 'half-made'"):
            Segment.attach("half-made")
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        os.truncate(made.path, 4096)
        made.close()
        made.unlink()
