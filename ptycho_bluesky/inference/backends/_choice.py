"""Which runtime is the fastest here: measured once for each network, number of threads and set of runtimes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference.backends._export import folder, written
from ptycho_bluesky.inference.backends._protocol import BackendOptions, Engine, Images, Made

__all__ = ["Choice", "Measured", "choose"]

logger = logging.getLogger(__name__)

RUNTIMES = ("torch", "openvino", "onnxruntime", "onnx")
Make = Callable[[BackendOptions], Engine]

SECONDS = 0.3
"""Of measuring for each candidate, after its first call."""


@dataclass(frozen=True)
class Measured:
    """One candidate of a choice."""

    name: str
    """Runtime and device."""

    precision: str

    frames_per_second: float
    """The best of some calls; 0 where it could not be opened."""

    share: float
    """Rms difference of the phasors to torch in single precision, as a share of their deviation."""

    fault: str = ""
    """Why it could not be opened."""


@dataclass(frozen=True)
class Choice:
    """What "auto" picked, and why."""

    options: BackendOptions
    """Of the pick, without "auto" in name and precision."""

    reason: str
    """One sentence."""

    table: tuple[Measured, ...]
    """All candidates."""


def _candidates(options: BackendOptions) -> list[BackendOptions]:
    pairs = [("torch", "f32"), ("torch", "bf16"), ("openvino", "f32"), ("openvino", "bf16"), ("onnxruntime", "f32")]
    pairs = [pair for pair in pairs if options.name in ("auto", pair[0])]
    pairs = [pair for pair in pairs if options.precision in ("auto", pair[1])] or [("openvino", options.precision)]
    return [options.model_copy(update={"name": name, "precision": precision}) for name, precision in pairs]


def choose(make: Make, key: str, frames: Images, options: BackendOptions) -> Choice:
    """Return the fastest way that is exact enough, as measured now or before.

    Parameters
    ----------
    make:
        Returns the engine of some options.
    key:
        Names the network; the choice is kept under it below the settings' home.
    frames:
        (B, N, N) to measure with.
    options:
        Name or precision may be "auto"; what they give is left as it is.

    Raises
    ------
    InferenceError
        When no candidate can be opened or is exact enough; the text says what each of them lacks.
    """
    path = folder() / f"choice-{key}-{_place(options)}.json"
    if (kept := _kept(path)) is not None:
        return kept
    exact = make(options.model_copy(update={"name": "torch", "precision": "f32"}))(frames)
    table = [(one, _measured(make, one, frames, exact)) for one in _candidates(options)]
    able = [pair for pair in table if not pair[1].fault and pair[1].share <= options.allowed]
    rows = tuple(row for _, row in table)
    if not able:
        text = "; ".join(f"{row.name} {row.precision}: {row.fault or f'off by {row.share:.1%}'}" for row in rows)
        raise InferenceError(f"no backend computes this network within {options.allowed:.1%}: {text}")
    picked, best = max(able, key=lambda pair: pair[1].frames_per_second)
    others = [f"{r.name} {r.precision} {r.frames_per_second:.0f}" for _, r in able if r is not best]
    reason = (
        f"{best.name} in {best.precision}: {best.frames_per_second:.0f} frames/s, threads {options.threads}, off by "
        f"{best.share:.2%} of the patches' deviation (allowed {options.allowed:.0%}); {', '.join(others) or 'no other'}"
    )
    logger.info("backend: %s", reason)
    choice = Choice(picked, reason, rows)
    text = json.dumps({"options": picked.model_dump(), "reason": reason, "table": [asdict(row) for row in rows]})
    written(path, lambda partial: partial.write_text(text))
    return choice


def _place(options: BackendOptions) -> str:
    """Return what a choice holds for: options, runtimes, processor."""
    installed = [f"{name} {importlib.metadata.version(name)}" for name in RUNTIMES if importlib.util.find_spec(name)]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    text = f"{options.model_dump_json()} {installed} {platform.processor()} {platform.node()} {gpu}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _kept(path: Path) -> Choice | None:
    """Return a choice made before; a file that cannot be read is as none."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        table = tuple(Measured(**row) for row in kept["table"])
        return Choice(BackendOptions(**kept["options"]), kept["reason"], table)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(make: Make, options: BackendOptions, frames: Images, exact: Made) -> Measured:
    try:
        engine = make(options)
        made = engine(frames)
    except InferenceError as error:
        return Measured(options.name, options.precision, 0.0, 0.0, str(error))
    best, end = float("inf"), time.perf_counter() + SECONDS
    while (begun := time.perf_counter()) < end:
        engine(frames)
        best = min(best, time.perf_counter() - begun)
    wanted, found = _phasors(exact), _phasors(made)
    share = float(np.sqrt((np.abs(found - wanted) ** 2).mean()) / max(float(wanted.std()), 1e-12))
    return Measured(engine.name, engine.precision, len(frames) / best, share)


def _phasors(made: Made) -> Any:
    phasors = np.exp(1j * made.phase)
    return phasors if made.amplitude is None else made.amplitude * phasors
