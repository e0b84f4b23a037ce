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

REFINED = ["translation_offsets", "weights", "background"]
"""What cdtools' FancyPtycho can refine beside object and probe."""


def pie(**more: Any) -> dict[str, Any]:
    """Return pty-chi's rPIE, small random batches, steps of 1 that fall to 0.1: its best for this budget."""
    values = {"step_size": 1.0, "alpha": 0.5}
    steps = {f"{part}_options.{name}": v for part in ("object", "probe") for name, v in values.items()}
    batches = {"reconstructor_options.batch_size": 8, "reconstructor_options.batching_mode": "random"}
    return {"engine": "RPIE", "anneal": 0.1, "options": {**batches, **steps, **more}}


def lsqml() -> dict[str, Any]:
    """Return pty-chi's LSQML, its engine for users, with momentum; its steps find their own length."""
    batches = {"reconstructor_options.batch_size": 10, "reconstructor_options.batching_mode": "random"}
    return {"engine": "LSQML", "options": {**batches, "reconstructor_options.momentum_acceleration_gain": 0.5}}


KEEP_PAGES = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
"""glibc gives no memory back: pty-chi allocates anew in each batch, and gained 23 % an epoch from it."""

POSITIONS = {"probe_position_options.optimizable": True, "probe_position_options.step_size": 30.0}
"""With rPIE the default step of 0.3 hardly moves a position; no update exceeds 0.1 pixels, pty-chi's own limit."""

VARIATION = {
    "opr_mode_weight_options.optimizable": True,
    "opr_mode_weight_options.optimize_intensity_variation": True,
}

ENTRIES = (
    Entry("ours, 1 mode", "ours", ONE, {"engine": "fast", "options": {"modes": 1}}),
    Entry("cdtools, 1 mode", "cdtools", ONE, {"modes": 1, "stages": ANNEALED}),
    Entry("pty-chi rPIE, 1 mode", "ptychi", ONE, {"modes": 1, **pie()}, KEEP_PAGES),
    Entry("pty-chi LSQML, 1 mode", "ptychi", ONE, {"modes": 1, **lsqml()}, KEEP_PAGES),
    Entry("ours, 3 modes", "ours", THREE, {"engine": "auto", "options": {"modes": 3}}),
    Entry("cdtools, 3 modes", "cdtools", THREE, {"modes": 3, "stages": ANNEALED}),
    Entry("pty-chi rPIE, 3 modes", "ptychi", THREE, {"modes": 3, **pie()}, KEEP_PAGES),
    Entry("pty-chi LSQML, 3 modes", "ptychi", THREE, {"modes": 3, **lsqml()}, KEEP_PAGES),
    Entry("ours, auto", "ours", FREE, {"engine": "auto", "options": {}}),
    Entry("cdtools, 1 mode, free", "cdtools", FREE, {"modes": 1, "stages": ANNEALED, "free": REFINED}),
    Entry("cdtools, 3 modes, free", "cdtools", FREE, {"modes": 3, "stages": ANNEALED, "free": REFINED}),
    Entry(
        "pty-chi rPIE, positions, OPR",
        "ptychi",
        FREE,
        {"modes": 1, "opr": 1, **pie(**POSITIONS, **VARIATION)},
        KEEP_PAGES,
    ),
    Entry("pty-chi rPIE, 3 modes, positions", "ptychi", FREE, {"modes": 3, **pie(**POSITIONS)}, KEEP_PAGES),
)
