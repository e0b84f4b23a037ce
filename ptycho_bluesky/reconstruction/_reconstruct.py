"""From a dataset to a result in one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from ptycho_bluesky.errors import ReconstructionError, report
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction._distance import refined_distance
from ptycho_bluesky.reconstruction._growing import GrowingDataset, follow
from ptycho_bluesky.reconstruction._joint import Shared, joined
from ptycho_bluesky.reconstruction._result import finish, provenance_of
from ptycho_bluesky.reconstruction._start import Start, begun_from
from ptycho_bluesky.reconstruction.diagnosis import explain_bad_fit, refuse_if_turned, refuse_if_wrong
from ptycho_bluesky.reconstruction.engines import ENGINES, BaseEngine, EngineOptions, EngineState

__all__ = ["reconstruct", "reconstruct_scans"]

logger = logging.getLogger(__name__)

ENOUGH_TO_JUDGE = 20
"""Epochs after which a bad fit tells of the data rather than of impatience."""

FEW = 64
"""Frames below which ``auto`` takes one probe mode: more would fit the noise."""


def reconstruct(
    dataset: PtychoDataset | GrowingDataset,
    engine: str = "auto",
    options: BaseModel | Mapping[str, Any] | None = None,
    *,
    device: str = "cpu",
    start: Reconstruction | Start | None = None,
    refine_distance: bool = False,
    check: bool = True,
    should_stop: Callable[[], bool] | None = None,
    on_state: Callable[[EngineState], None] | None = None,
    max_seconds: float | None = None,
) -> Reconstruction:
    """Reconstruct object and probe from a dataset.

    Parameters
    ----------
    dataset:
        Far or near field, with or without a guess of the probe; or one that still grows, which is reconstructed while
        frames arrive and once more when it is complete.
    engine:
        A name of ``ENGINES``; ``"auto"`` chooses and chains the others, with one probe mode where there are fewer than
        64 frames.
    options:
        The engine's options, as its pydantic model or as a mapping; None for its defaults.
    device:
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``...
    start:
        Where to begin: an earlier result, or an image such as the live mosaic; None for an empty object.
    refine_distance:
        Near field: find the distance that explains the frames best first.
    check:
        Refuse a dataset whose units are wrong, with engine ``"auto"`` also one whose positions count another way (found
        from a hundred frames), and one whose fit is bad at the end where trials show why. False reconstructs what is
        given, and says nothing.
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
        When the dataset has faults, or looks wrong (see `check`): the text names the likely cause.
    ReconstructionError
        When engine, options or device are not known or do not suit, or the reconstruction diverges.
    """
    growing = isinstance(dataset, GrowingDataset)
    worker, chosen = _engine(engine, device, options, None if growing else len(dataset))
    began = time.perf_counter()
    beginning = Start.of(start) if isinstance(start, Reconstruction) else start
    notes: list[str] = []
    if isinstance(dataset, GrowingDataset):
        states = follow(worker, dataset, chosen, beginning)
    else:
        if check:
            refuse_if_wrong(dataset.validate(), trials=False)
            if engine == "auto" and len(dataset) >= FEW:
                told = refuse_if_turned(dataset, threads=chosen.threads)
                notes += [told] if told else []
        if refine_distance:
            dataset, found = refined_distance(dataset, lambda d: _trial(d, device, chosen))
            notes.append(str(found))
        problem = worker.prepare(dataset, chosen)
        states = worker.iterate(problem if beginning is None else begun_from(problem, beginning), chosen)
    run = _drive(states, began, should_stop, on_state, max_seconds)
    if run.state is None:
        raise ReconstructionError(f"engine {engine!r} ended without a single epoch")
    if isinstance(dataset, GrowingDataset):
        there = dataset.snapshot()
        dataset = replace(there, positions=there.positions[: len(run.state.problem.used)])
    run.messages[:0] = notes
    if check and not run.stopped and run.state.epoch >= ENOUGH_TO_JUDGE:
        explained = explain_bad_fit(dataset, run.r_factor, refuse=True, threads=chosen.threads)
        if explained:
            logger.warning("%s", explained)
            run.messages.append(explained)
    return _finished(dataset, run, worker, chosen)


def reconstruct_scans(
    scans: Sequence[PtychoDataset],
    shared: Shared,
    engine: str = "fast",
    options: BaseModel | Mapping[str, Any] | None = None,
    *,
    device: str = "cpu",
    should_stop: Callable[[], bool] | None = None,
    on_state: Callable[[EngineState], None] | None = None,
    max_seconds: float | None = None,
) -> list[Reconstruction]:
    """Reconstruct several scans together: of one object (`shared` "object"), or with one probe ("probe").

    The other parameters and the errors are those of :func:`reconstruct`. Returns one result for each scan, in their
    order; with a shared object all hold the same one, each with its own probe and positions.
    """
    worker, chosen = _engine(engine, device, options, sum(len(scan) for scan in scans))
    began = time.perf_counter()
    joint = joined(scans, shared, chosen.modes, chosen.memory_gb)
    run = _drive(worker.iterate(joint.problem, chosen), began, should_stop, on_state, max_seconds)
    if run.state is None:
        raise ReconstructionError(f"engine {engine!r} ended without a single epoch")
    results = []
    for scan, (problem, model) in zip(joint.scans, joint.split(run.state.model), strict=True):
        mine = replace(run, state=replace(run.state, problem=problem, model=model), r_factor=run.r_factor)
        results.append(_finished(scan, mine, worker, chosen))
    return results


@dataclass
class _Run:
    """What came of driving an engine."""

    began: float
    state: EngineState | None = None
    r_factor: float = float("nan")
    errors: list[float] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    stopped: str = ""


def _drive(
    states: Iterator[EngineState],
    began: float,
    should_stop: Callable[[], bool] | None,
    on_state: Callable[[EngineState], None] | None,
    max_seconds: float | None,
) -> _Run:
    if max_seconds is not None and not max_seconds > 0:
        raise ReconstructionError(f"max_seconds is {max_seconds}; it must be above 0, or None for no limit")
    run, last = _Run(began), time.perf_counter()
    for state in states:
        run.state = state
        run.errors.append(state.r_factor)
        run.messages += [state.message] if state.message else []
        if on_state is not None:
            on_state(state)
        if state.epoch == state.epochs:
            continue  # the engine ends by itself
        now = time.perf_counter()
        spent, this, last = now - began, now - last, now
        if should_stop is not None and should_stop():
            run.stopped = "asked to stop"
        elif max_seconds is not None and spent + this > max_seconds:
            run.stopped = f"limit of {max_seconds:g} s"
        if run.stopped:
            logger.info("stopped after %d of %d epochs: %s", state.epoch, state.epochs, run.stopped)
            break
    if run.state is not None:
        run.r_factor = run.state.current_r_factor()
    return run


def _finished(dataset: PtychoDataset, run: _Run, engine: BaseEngine[Any], options: EngineOptions) -> Reconstruction:
    state = run.state
    if state is None:
        raise ReconstructionError(f"engine {engine.name!r} ended without a single epoch")
    seconds = time.perf_counter() - run.began
    provenance = provenance_of(dataset, state, engine.device, seconds, run.stopped, run.messages)
    parameters = options.model_dump(mode="json")
    return finish(dataset, state, run.r_factor, run.errors, engine.name, parameters, provenance)


def _trial(dataset: PtychoDataset, device: str, options: EngineOptions) -> float:
    """Return the R-factor that a few epochs of the fast engine reach; infinite where they diverge."""
    few = {"epochs": 6, "modes": 1, "near_field": options.near_field, "threads": options.threads}
    try:
        return reconstruct(dataset, "fast", few, device=device, check=False).r_factor
    except ReconstructionError:
        return float("inf")


def _engine(
    name: str, device: str, options: BaseModel | Mapping[str, Any] | None, frames: int | None
) -> tuple[BaseEngine[Any], EngineOptions]:
    if name not in ENGINES:
        raise ReconstructionError(f"engine {name!r} is not known; allowed are {', '.join(map(repr, ENGINES))}")
    kind = ENGINES[name].options_type
    if isinstance(options, BaseModel) and not issubclass(kind, type(options)):
        raise ReconstructionError(
            f"options are {type(options).__name__}; engine {name!r} takes {kind.__name__}, a mapping or None"
        )
    given = options.model_dump(exclude_unset=True) if isinstance(options, BaseModel) else dict(options or {})
    if name == "auto" and frames is not None and frames < FEW:
        given.setdefault("modes", 1)
    try:
        return ENGINES[name](device), kind.model_validate(given)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        allowed = ", ".join(kind.model_fields)
        raise ReconstructionError(report(f"options of engine {name!r} (known: {allowed})", faults)) from None
