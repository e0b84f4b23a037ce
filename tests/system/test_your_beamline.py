"""The page on one's own devices: its code is run as it stands (that on EPICS in test_epics.py)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "your-beamline.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run_block(code: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, PAGE, "exec"), space)
    return space


def test_any_motors_and_any_camera() -> None:
    from ptycho_bluesky.stream import Frame, RunReader

    space = run_block(BLOCKS[0])
    reader = RunReader(space["metadata"])
    frames = [item for document in space["documents"] for item in reader.feed(*document)]
    assert len(frames) == 49 and all(isinstance(f, Frame) and f.pixels.shape == (64, 64) for f in frames)
    assert frames[0].y == pytest.approx(9e-4) and frames[0].x == pytest.approx(-9e-4)  # mm, samy counts upwards


def test_a_camera_by_its_library(tmp_path: Path) -> None:
    class Library:
        def snap(self) -> Any:
            return np.full((64, 64), 7, np.uint16)

    camera = run_block(BLOCKS[3])["Camera"](Library(), tmp_path)
    camera.trigger().wait(1)
    assert (camera.image.get() == 7).all() and camera.describe_collect()["detector_image"]["shape"] == [1, 64, 64]
