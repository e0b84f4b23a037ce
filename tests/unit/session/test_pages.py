"""The page on sessions: its code is run as it stands, with a quicker beamline behind it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ptycho_bluesky import _session
from ptycho_bluesky._session import BeamlineFile
from ptycho_bluesky.experiment import PtychographyMetadata

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "session.md").read_text()


def test_the_code_of_the_page(
    tmp_path: Path, use_home: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(tmp_path)
    quick: dict[str, Any] = {"live": False, "dispatch": False, "tiled": False, "quiet": True, "frame_size": 64}
    monkeypatch.setattr(_session, "session", partial(_session.session, **quick, speedup=30.0, field_m=(2e-6, 2e-6)))
    space: dict[str, Any] = {"__name__": "__main__"}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block, "session.md", "exec"), space)
    finally:
        space["s"].close()
    assert space["run"].state == "done"
    assert space["RE"].waiting_hook == space["console"].waiting


def test_what_the_page_shows_of_a_session_is_what_it_says() -> None:
    shown = re.search(r"```\n(session: .*?)```", PAGE, re.DOTALL)
    assert shown is not None
    source = (Path(_session.__file__).parent / "_session.py").read_text()
    for line in shown[1].splitlines()[1:5]:
        assert line in source


def test_the_beamline_of_the_page() -> None:
    text = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert text is not None
    file = BeamlineFile.model_validate(tomllib.loads(text[1]))
    assert PtychographyMetadata.model_validate(file.metadata).missing() == []
    assert file.stage.model_extra == {"prefix": "16id:", "y": "m1", "x": "m2", "rotation": "m3"}
