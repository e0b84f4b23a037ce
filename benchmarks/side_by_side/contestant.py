"""One contestant in a process of its own: ``python -m side_by_side.contestant ENGINE DATA.npz OUT.npz JSON``.

The clock runs from the moment when libraries and data are loaded until the budget is spent, the set-up of the engine
included; it rests while a snapshot is copied. Snapshots are judged afterwards, by another process.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ENGINES = {"ours": "ours", "cdtools": "peer_cdtools", "ptychi": "peer_ptychi"}
DENSE, GROWTH = 12, 1.06
"""Snapshots: each of the first epochs, then one whenever the time has grown by this factor."""

Snapshot = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Problem:
    """What everybody is given. The flat object is each engine's own."""

    frames: npt.NDArray[np.float32]
    """(N, H, W) counts, zero frequency in the centre."""

    corners: npt.NDArray[np.float64]
    """(N, 2) (row, column) corner of each patch, object pixels."""

    probe: npt.NDArray[np.complex64]
    """(1, H, W), ``sum |probe|**2`` the mean number of counts in a frame."""

    shape: tuple[int, int]
    """(Y, X) of an object array that holds all patches with a margin."""

    seconds: float
    """The budget, for schedules that need to know their end."""

    threads: int


def peak_mb() -> float:
    """The largest memory this process has held so far, MB of 1e6 bytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)


@dataclass
class Record:
    """The clock and the snapshots; an engine calls it after each epoch and ends when it answers False."""

    seconds: float
    ends: list[float] = field(default_factory=list)
    kept: dict[int, Snapshot] = field(default_factory=dict)
    snapshot: Callable[[], Snapshot] | None = None
    due: float = 0.0
    rested: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        return time.perf_counter() - self.began - self.rested

    def rest_since(self, moment: float) -> None:
        """Take out of the clock what passed since `moment` of ``elapsed``."""
        self.rested += self.elapsed() - moment

    def __call__(self, snapshot: Callable[[], Snapshot]) -> bool:
        now = self.elapsed()
        last = now - self.ends[-1] if self.ends else now
        self.ends.append(now)
        self.snapshot = snapshot
        if len(self.ends) <= DENSE or now >= self.due:
            self.keep()
            self.due = now * GROWTH
        self.rest_since(now)
        return now + last <= self.seconds

    def keep(self) -> None:
        if self.snapshot is not None:
            self.kept[len(self.ends)] = {key: np.array(value) for key, value in self.snapshot().items()}

    def save(self, path: Path, start_mb: float, peak: float, notes: dict[str, Any]) -> None:
        arrays = {f"{key}_{epoch}": value for epoch, kept in self.kept.items() for key, value in kept.items()}
        facts = {**notes, "libraries_and_data_mb": start_mb, "peak_mb": peak}
        np.savez(path, ends=self.ends, epochs=sorted(self.kept), facts=json.dumps(facts), **arrays)


def main() -> None:
    engine, data, output, given = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    module = importlib.import_module(f"side_by_side.{ENGINES[engine]}")
    with np.load(data) as held:
        arrays = {key: held[key] for key in ("frames", "corners", "probe")}
        shape = (int(held["shape"][0]), int(held["shape"][1]))
    problem = Problem(**arrays, shape=shape, seconds=given["seconds"], threads=given["threads"])
    module.warm_up(problem, given["settings"])
    start_mb = peak_mb()
    record = Record(given["seconds"])
    notes = module.run(problem, given["settings"], record)
    peak = peak_mb()
    record.keep()
    record.save(Path(output), start_mb, peak, notes)


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    main()
