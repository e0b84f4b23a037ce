"""The IPython profile: its startup files, run in order in one namespace as IPython does, give a working beamline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptycho_bluesky.catalog import stop_server

STARTUP = Path(__file__).parents[2] / "profiles" / "profile_ptycho" / "startup"


@pytest.mark.timeout(200)
def test_a_scan_in_the_profile_is_reconstructed(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    use_home(tmp_path)
    space: dict[str, Any] = {"__name__": "__main__"}
    try:
        for file in sorted(STARTUP.glob("*.py")):
            exec(compile(file.read_text(), file, "exec"), space)
        stage, pattern = space["stage"], space["fermat"](1e-6, 1e-6, 2.5e-7)
        space["live"].wait_ready(60)
        plan = space["ptycho_scan"](
            [space["detector"]], stage.y, stage.x, pattern, metadata=space["metadata"], min_overlap=None
        )
        (uid,) = space["RE"](plan)
        assert space["live"].wait(60)["frames_inferred"] == len(pattern)
        assert space["wait"](space["dispatch"].job_ids[-1], 100).state == "done"
        (result,) = space["find_reconstructions"](space["catalog"], uid)
        assert result.raw.start["uid"] == uid
    finally:
        if "live" in space:
            space["live"].close()
        if "catalog" in space:
            space["catalog"].context.close()
        stop_server()
