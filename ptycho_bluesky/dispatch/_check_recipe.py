"""The recipe that looks at a place: what is installed there, and how quick a small reconstruction is."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ptycho_bluesky import __version__
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._recipes import whole
from ptycho_bluesky.dispatch._spec import JobSpec

__all__ = ["check_place", "versions"]

COMPARED = ("numpy", "scipy", "torch", "numba", "h5py", "tiled")


def versions() -> dict[str, str]:
    """Return the versions of what results depend on, by name."""
    found = {"ptycho-bluesky": __version__, "python": platform.python_version()}
    for name in COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def check_place(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> Path | None:
    """Write what there is to say of the place; with ``options["reconstruct"]`` reconstruct the source as well.

    Returns
    -------
    Path or None
        JSON with ``host``, ``versions``, ``cpus``, ``threads``, ``gpus`` (names), and of a reconstruction ``seconds``,
        ``seconds_per_epoch`` (all frames once), ``epochs``, ``r_factor``, ``ranks``, ``device``.
    """
    told: dict[str, Any] = {
        "host": platform.node(),
        "versions": versions(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": settings().threads,
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }
    if spec.options.get("reconstruct"):
        begin = time.perf_counter()
        options = {key: value for key, value in spec.options.items() if key != "reconstruct"}
        made = whole(spec.model_copy(update={"options": options}), should_stop, on_state, folder)
        if made is None:
            return None
        result = made[0]
        keys = ("seconds_per_epoch", "epochs", "ranks", "device")
        told["reconstruction"] = {key: result.provenance[key] for key in keys}
        told["reconstruction"] |= {"seconds": round(time.perf_counter() - begin, 3), "r_factor": result.r_factor}
    path = folder / "check.part"
    path.write_text(json.dumps(told))
    return path
