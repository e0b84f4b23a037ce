"""Who takes part, in which group, with which settings; docs/explanations/benchmark.md tells how they were found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TARGETS = (0.2, 0.17, 0.155)
"""R-factors whose wall time is reported."""

ONE, THREE, FREE = "one mode", "three modes", "everything free"
"""Groups: positions fixed in the first two; in the last everyone may refine whatever helps."""


@dataclass(frozen=True)
class Entry:
    name: str
    engine: str
    group: str
    settings: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)


ANNEALED = [[0.4, 0.02, 10], [0.3, 0.005, 10], [0.3, 0.001, 10]]
"""cdtools' Adam: share of the time, learning rate, batch; its own examples lower the rate from call to call."""

LSQML = {
    "engine": "LSQML",
    "anneal": 0.1,
    "options": {"reconstructor_options.batch_size": 25, "reconstructor_options.batching_mode": "random"},
}

ENTRIES = (
    Entry("ours, 1 mode", "ours", ONE, {"engine": "fast", "options": {"modes": 1}}),
    Entry("cdtools, 1 mode", "cdtools", ONE, {"modes": 1, "stages": ANNEALED}),
    Entry("pty-chi LSQML, 1 mode", "ptychi", ONE, {"modes": 1, **LSQML}),
    Entry("ours, 3 modes", "ours", THREE, {"engine": "auto", "options": {"modes": 3}}),
    Entry("cdtools, 3 modes", "cdtools", THREE, {"modes": 3, "stages": ANNEALED}),
    Entry("pty-chi LSQML, 3 modes", "ptychi", THREE, {"modes": 3, **LSQML}),
    Entry("ours, auto", "ours", FREE, {"engine": "auto", "options": {}}),
)
