"""A live view with an image, as an edge process shows it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ptycho_bluesky.inference._canvas import SharedCanvas
from ptycho_bluesky.stream import LiveBoard
from ptycho_bluesky.stream._live import unlink_session

SIZE = 64


@pytest.fixture
def shown() -> Iterator[tuple[str, Callable[..., None]]]:
    """Name of a session, and a function that adds a patch to its image and shows it."""
    name = f"test-{uuid.uuid4().hex}"
    board, canvas, frames = LiveBoard.create(name), SharedCanvas(f"{name}-1"), 0

    def add(y: float, x: float, run: str = "run") -> None:
        nonlocal frames
        k, frames = np.arange(SIZE), frames + 1
        phase = np.sin((y + k[:, None]) / 9) * np.cos((x + k[None]) / 7)
        weight = np.outer(np.hanning(SIZE), np.hanning(SIZE)).astype(np.float32)
        canvas.mosaic.add(phase.astype(np.float32), None, weight, (y, x), confidence=0.75)
        canvas.touched()
        canvas._next = 0.0
        canvas.publish({"run_uid": run, "frames": frames}, 1e-8)
        board.write({"image_segment": canvas.name, "state": "running"})
        canvas.retire()

    yield name, add
    canvas.close()
    board.close()
    unlink_session(name)
