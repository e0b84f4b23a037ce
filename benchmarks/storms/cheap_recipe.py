"""A recipe that costs nothing, for storms of jobs; it notes when it began and ended, and whether it was alone.

It is registered as packages register theirs, by an entry point: ``install`` writes the metadata of a package beside a
copy of this file, for ``PYTHONPATH``. No seam of the dispatch itself is needed for that.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.experiment import Reconstruction

NAME = "cheap"
NOTES = "notes.txt"


def note(folder: Path, what: str) -> None:
    """Add a line to the job's notes, whole or not at all."""
    descriptor = os.open(folder / NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, f"{what} {os.getpid()}\n".encode())
    os.close(descriptor)


def cheap(
    spec: Any, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> Reconstruction | None:
    """Return noise after ``options["seconds"]``."""
    with file_lock(folder / "at-work") as alone:
        note(folder, "begin" if alone else "twice")
        deadline = time.monotonic() + float(spec.options.get("seconds", 0))
        while time.monotonic() < deadline:
            if should_stop():
                return None
            time.sleep(0.01)
        rng = np.random.default_rng(int(spec.options["seed"]))
        result = Reconstruction(
            object=np.exp(1j * rng.normal(0, 0.3, (1, 16, 16))).astype(np.complex64),
            probe=np.ones((1, 8, 8), np.complex64),
            positions=rng.uniform(0, 1e-6, (4, 2)),
            coverage=np.ones((16, 16), np.float32),
            origin=(0.0, 0.0),
            pixel_size_m=1e-8,
            errors=np.zeros(0),
            r_factor=0.1,
            phase_contrast_rad=1.0,
            engine=NAME,
            parameters={},
            provenance={"job_id": spec.job_id},
        )
        note(folder, "end")
    return result


def install(site: Path) -> Path:
    """Make the folder of a package that registers the recipe, and return it: it belongs into ``PYTHONPATH``."""
    metadata = site / "cheap_recipe-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, site / "cheap_recipe.py")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: cheap-recipe\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[ptycho_bluesky.recipes]\n{NAME} = cheap_recipe:cheap\n")
    return site
