"""From a dataset to a result in one call."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ptycho_bluesky.errors import ReconstructionError, report
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction._result import finish, software_versions
from ptycho_bluesky.reconstruction.engines import EngineState, FastEngine

__all__ = ["ENGINES", "reconstruct"]

logger = logging.getLogger(__name__)

ENGINES = {engine.name: engine for engine in (FastEngine,)}
"""Engines by name."""


def reconstruct(
    dataset: PtychoDataset,
    engine: str = "auto",
    options: BaseModel | Mapping[str, Any] | None = None,
    *,
    device: str = "cpu",
    should_stop: Callable[[], bool] | None = None,
    on_state: Callable[[EngineState], None] | None = None,
    max_seconds: float | None = None,
) -> Reconstruction:
    """Reconstruct object and probe from a dataset.

    Parameters
    ----------
    dataset:
        Far or near field; with or without a guess of the probe.
    engine:
        A name of ``ENGINES``, or ``"auto"``: the fast engine, one probe mode where there are fewer than 64 frames.
    options:
        The engine's options, as its pydantic model or as a mapping; None for its defaults.
    device:
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``...
    should_stop:
        Asked after each epoch; True ends the reconstruction with what there is.
    on_state:
        Called with each state, in this thread; an exception in it ends the reconstruction.
    max_seconds:
        No epoch begins that would probably end later than this; one epoch is always done.

    Returns
    -------
    Reconstruction
        ``provenance`` holds software versions, host, device, kernels, timings and whether it stopped early, and why.

    Raises
    ------
    DatasetError
        When the dataset has faults.
    ReconstructionError
        When engine, options or device are not known or do not suit, or the reconstruction diverges.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise ReconstructionError(f"max_seconds is {max_seconds}; it must be above 0, or None for no limit")
    began = time.perf_counter()
    name = "fast" if engine == "auto" else engine
    chosen = _options(dataset, name, options, automatic=engine == "auto")
    errors: list[float] = []
    messages: list[str] = []
    stopped, state, previous = "", None, 0.0
    states = ENGINES[name](device).run(dataset, chosen)
    for state in states:
        errors.append(state.r_factor)
        messages += [state.message] if state.message else []
        if on_state is not None:
            on_state(state)
        if state.epoch == state.epochs:
            continue  # the engine ends by itself
        spent, last, previous = time.perf_counter() - began, state.seconds - previous, state.seconds
        if should_stop is not None and should_stop():
            stopped = "asked to stop"
        elif max_seconds is not None and spent + last > max_seconds:
            stopped = f"limit of {max_seconds:g} s"
        if stopped:
            logger.info("stopped after %d of %d epochs: %s", state.epoch, state.epochs, stopped)
            break
    if state is None:
        raise ReconstructionError(f"engine {name!r} ended without a single epoch")
    r_factor = state.current_r_factor()
    provenance = {
        "dataset": dataset.name,
        "frames_used": len(state.problem),
        "frames_left_out": int((~state.problem.used).sum()),
        "software": software_versions(),
        "host": platform.node(),
        "device": device,
        "ranks": 1,
        "kernels": state.kernels.name,
        "epochs": state.epoch,
        "seconds": round(time.perf_counter() - began, 4),
        "seconds_iterating": round(state.seconds, 4),
        "seconds_per_epoch": round(state.seconds / state.epoch, 5),
        "stopped_early": stopped or None,
        "messages": messages,
    }
    return finish(dataset, state, r_factor, errors, name, chosen.model_dump(mode="json"), provenance)


def _options(
    dataset: PtychoDataset, name: str, options: BaseModel | Mapping[str, Any] | None, *, automatic: bool
) -> BaseModel:
    if name not in ENGINES:
        raise ReconstructionError(f"engine {name!r} is not known; allowed are 'auto', {', '.join(map(repr, ENGINES))}")
    kind = ENGINES[name].options_type
    if isinstance(options, BaseModel) and not isinstance(options, kind):
        raise ReconstructionError(
            f"options are {type(options).__name__}; engine {name!r} takes {kind.__name__}, a mapping or None"
        )
    given = options.model_dump(exclude_unset=True) if isinstance(options, BaseModel) else dict(options or {})
    if automatic and len(dataset) < 64:
        given.setdefault("modes", 1)  # more would fit the noise
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        allowed = ", ".join(kind.model_fields)
        raise ReconstructionError(report(f"options of engine {name!r} (known: {allowed})", faults)) from None
