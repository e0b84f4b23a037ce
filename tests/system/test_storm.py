"""A small storm over the jobs; ``ptycho-bluesky bench dispatch`` has the large one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ptycho_bluesky.dispatch import Ledger
from ptycho_bluesky.dispatch._warm_client import end_warm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

AWAY = {"PTYCHO_BLUESKY_TILED_URI": "http://127.0.0.1:9", "PTYCHO_BLUESKY_TILED_PATIENCE_S": "0.01"}


@pytest.mark.parametrize("seed", [3])
def test_consoles_runners_and_dispatchers_are_killed_and_every_job_is_done_once(
    home: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import dispatch as bench
    from storms.storm import Storm

    storm: Any = Storm(home, 12, 5, seed, victims=("runner", "console", "dispatcher"), environment=AWAY)
    monkeypatch.syspath_prepend(str(storm.site))
    monkeypatch.setenv("PYTHONPATH", storm.environment["PYTHONPATH"])
    try:
        seen = storm.run(timeout_s=100)
        assert storm.faults() + bench.in_ledger_alone(Ledger()) == [], seen
        assert sum(seen["killed"].values()) == 5 or len(storm.folders()) == 12
    finally:
        end_warm(Ledger().folder)
        for name in ("dispatch", "storms", "storms.storm", "storms.cheap_recipe"):
            sys.modules.pop(name, None)
