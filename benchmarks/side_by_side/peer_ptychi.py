"""pty-chi: LSQML, rPIE, DM and the rest of its engines."""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
import torch

from side_by_side.contestant import Problem, Record, Snapshot

STAND_IN = "no torchvision for this torch: a stand-in whose GaussianBlur refuses to work (random objects alone use it)"
notes = {"stand_in": ""}


class GaussianBlur:
    """pty-chi imports it, and uses it for random start objects alone, of which there are none here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("the benchmark's stand-in for torchvision blurs nothing; install torchvision")


try:
    importlib.import_module("torchvision.transforms")
except (ImportError, RuntimeError):  # not there, or built for another torch
    parent, child = ModuleType("torchvision"), ModuleType("torchvision.transforms")
    child.GaussianBlur, parent.transforms = GaussianBlur, child
    sys.modules.update({"torchvision": parent, "torchvision.transforms": child})
    notes["stand_in"] = STAND_IN

import ptychi.api as api  # noqa: E402
import ptychi.utils  # noqa: E402
from ptychi.api.task import PtychographyTask  # noqa: E402

logging.disable(logging.WARNING)


def warm_up(problem: Problem, settings: dict[str, Any]) -> None:
    torch.set_num_threads(problem.threads)


def assign(options: Any, values: dict[str, Any]) -> None:
    """Set options by dotted name: ``object_options.step_size``."""
    for name, value in values.items():
        *path, last = name.split(".")
        target = options
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)


def task_of(problem: Problem, settings: dict[str, Any]) -> tuple[Any, float]:
    options = getattr(api, settings["engine"] + "Options")()
    options.data_options.fft_shift = True
    options.object_options.pixel_size_m = 1e-8
    options.probe_position_options.optimizable = False
    options.reconstructor_options.num_epochs = 100_000
    options.reconstructor_options.random_seed = 1
    options.reconstructor_options.default_device = api.Devices.CPU
    assign(options, settings["options"])
    size = problem.frames.shape[-1]
    side = max(problem.shape) + max(problem.shape) % 2
    origin = (side - size) / 2  # a patch begins at round(position) + origin
    probe = torch.from_numpy(problem.probe)[None]
    more: dict[str, Any] = {}
    if settings["modes"] > 1:
        probe = torch.cat([probe, torch.zeros(1, settings["modes"] - 1, size, size, dtype=probe.dtype)], dim=1)
        probe = ptychi.utils.orthogonalize_initial_probe(probe, **settings.get("secondary", {}))
    if settings.get("opr"):
        probe = ptychi.utils.add_additional_opr_probe_modes_to_probe(probe, settings["opr"])
        more["opr_mode_weights_data"] = ptychi.utils.generate_initial_opr_mode_weights(
            len(problem.frames), probe.shape[0], probe=probe
        )
    task = PtychographyTask(
        options,
        diffraction_data=torch.from_numpy(problem.frames),
        object_data=torch.ones(1, side, side, dtype=torch.complex64),
        probe_data=probe,
        probe_position_x_px=torch.from_numpy((problem.corners[:, 1] - origin).astype(np.float32)),
        probe_position_y_px=torch.from_numpy((problem.corners[:, 0] - origin).astype(np.float32)),
        **more,
    )
    return task, origin


def run(problem: Problem, settings: dict[str, Any], record: Record) -> dict[str, Any]:
    """Run epoch by epoch; ``anneal`` is the factor to which the step sizes fall, geometrically, over the budget.

    pty-chi has torch's schedulers for it (``step_size_scheduler_class``), which count epochs; the budget is a time.
    """
    task, origin = task_of(problem, settings)

    def data(name: str) -> Any:
        return task.get_data_to_cpu(name, as_numpy=True)

    def snapshot() -> Snapshot:
        y, x = data("probe_positions").T
        kept = {"object": data("object"), "probe": data("probe")[0], "corners": np.stack([y, x], axis=1) + origin}
        kept["shifted_modes"] = np.array(1)  # pty-chi moves the first mode alone by the fraction of a pixel
        if settings.get("opr"):
            kept |= {"opr": data("probe")[1:, 0], "opr_weights": data("opr_mode_weights")}
        return kept

    stepped = [p for p in (task.object, task.probe) if p.optimizer is not None]
    full = [parameter.step_size for parameter in stepped]
    last = settings.get("anneal", 1.0)
    while True:
        for parameter, step in zip(stepped, full, strict=True):
            parameter.optimizer.param_groups[0]["lr"] = step * last ** min(1.0, record.elapsed() / problem.seconds)
            parameter.sync_step_size_from_optimizer()
        task.run(1)
        if not record(snapshot):
            return {"version": version("ptychi"), **notes}
