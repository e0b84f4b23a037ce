"""Runs the contestants one after another and judges what they left."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import Reconstruction
from side_by_side.contestant import Snapshot
from side_by_side.datasets import HALVES, Task
from side_by_side.entries import TARGETS, Entry
from side_by_side.judge import Halves, r_factor, reconstruction

BENCHMARKS = Path(__file__).parents[1]


class FailedError(Exception):
    """A contestant did not get to the end; the text is its last words."""


@dataclass(frozen=True)
class Finish:
    """What one process left."""

    ends: npt.NDArray[np.float64]
    """(epochs,) seconds since the start at which each epoch ended, snapshots not counted."""

    snapshots: dict[int, Snapshot]
    """By epoch; the last epoch is among them."""

    facts: dict[str, Any]

    @property
    def last(self) -> Snapshot:
        return self.snapshots[max(self.snapshots)]

    @classmethod
    def read(cls, path: Path) -> Finish:
        with np.load(path) as held:
            snapshots: dict[int, Snapshot] = {int(epoch): {} for epoch in held["epochs"]}
            for key in held.files:
                name, _, epoch = key.rpartition("_")
                if epoch.isdigit():
                    snapshots[int(epoch)][name] = held[key]
            return cls(held["ends"], snapshots, json.loads(str(held["facts"])))


def finish(entry: Entry, python: Path, data: Path, seconds: float, threads: int) -> Finish:
    """Run one contestant on one file in a process of its own.

    Raises
    ------
    FailedError
        When it ends with an error, or does not end.
    """
    given = {"seconds": seconds, "threads": threads, "settings": entry.settings}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MPLBACKEND": "Agg", **entry.environment}
    paths = [str(BENCHMARKS), *([str(BENCHMARKS.parent)] if entry.engine == "ours" else [])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "finish.npz"
        module = ["-W", "ignore", "-m", "side_by_side.contestant"]
        command = [str(python), *module, entry.engine, str(data), str(output), json.dumps(given)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=20 * seconds + 300, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FailedError(f"{type(error).__name__}: {error}") from error
        if done.returncode:
            raise FailedError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
        return Finish.read(output)


def race(entry: Entry, python: Path, task: Task, seconds: float, threads: int) -> tuple[dict[str, Any], Reconstruction]:
    """Return the report of one contestant and its reconstruction from all frames.

    The half data sets get half of the time each, since they hold half of the frames.
    """
    runs = {n: finish(entry, python, f, seconds if n == "all" else seconds / 2, threads) for n, f in task.files.items()}
    results = {n: reconstruction(run.last, task.corners[HALVES[n]], entry.name) for n, run in runs.items()}
    whole, amplitude = runs["all"], np.sqrt(task.frames)
    curve = [
        (epoch, round(float(whole.ends[epoch - 1]), 3), round(r_factor(snapshot, amplitude), 4))
        for epoch, snapshot in sorted(whole.snapshots.items())
    ]
    epochs = np.diff(whole.ends, prepend=0.0)[1:] if len(whole.ends) > 1 else whole.ends
    moved = whole.last["corners"] - task.corners
    report = {
        **whole.facts,
        "engine": entry.engine,
        "group": entry.group,
        "settings": entry.settings,
        "environment": entry.environment,
        "epochs": len(whole.ends),
        "seconds": curve[-1][1],
        "s_per_epoch": round(statistics.median(epochs), 4),
        "s_per_epoch_least": round(min(epochs), 4),
        "seconds_to": {f"R<={t}": next((s for _, s, r in curve if r <= t), None) for t in TARGETS},
        "r_factor": curve[-1][2],
        "phase_contrast_rad": results["all"].phase_contrast_rad,
        "half_data_correlation": Halves.of(results["even"], results["odd"]).as_dict(),
        "positions_moved_px_rms": round(float(np.sqrt(((moved - moved.mean(axis=0)) ** 2).sum(axis=1).mean())), 3),
        "curve_epoch_seconds_r": curve,
    }
    return report, results["all"]


def floor(pythons: list[Path], count: int, size: int, threads: int) -> dict[str, float]:
    """Return the seconds of each library at 1 and at `threads` threads, from all environments."""
    found: dict[str, float] = {}
    for python in pythons:
        for n in sorted({1, threads}):
            command = [str(python), "-m", "side_by_side.floor", str(count), str(size), str(n)]
            environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "OMP_NUM_THREADS": str(n)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
            for name, value in json.loads(done.stdout).items():
                key = f"{name}, {n} thread{'s' * (n > 1)}"
                found[key] = min(value, found.get(key, value))
    return found


def compile_seconds() -> dict[str, float]:
    """Import and the first epoch of a new process, with an empty and with a filled cache of compiled passes."""
    code = (
        "import time,numpy as np;began=time.perf_counter();from ptycho_bluesky.reconstruction import reconstruct;"
        "from ptycho_bluesky.experiment import PtychoDataset;"
        "frames=np.random.default_rng(0).poisson(9.,(8,16,16)).astype(np.float32);"
        "reconstruct(PtychoDataset(frames,np.arange(16.).reshape(8,2)),'fast',{'epochs':1});"
        "print(time.perf_counter()-began)"
    )
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold_s", "warm_s"):
            environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(BENCHMARKS.parent)}
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
            found[name] = round(float(done.stdout), 2)
    return found
