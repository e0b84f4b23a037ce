"""A training as a job: trained, tried against the model in service, and left in the job's folder with its record."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from ptycho_bluesky.catalog import GateVerdict, ModelLibrary
from ptycho_bluesky.dispatch._entry import PROBE, RECORD
from ptycho_bluesky.dispatch._folder import atomic_write
from ptycho_bluesky.dispatch._sources import Lesson, lesson_of
from ptycho_bluesky.dispatch._sparing import less_for_training, sparing
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._training_spec import TrainingOrder
from ptycho_bluesky.dispatch.models import as_verdict, model_in_service, model_record
from ptycho_bluesky.errors import InferenceError, report
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.inference import (
    DEFAULT_MODEL,
    Conditions,
    ProbeViTModel,
    ProbeViTSizes,
    TrainingOptions,
    TrainingPairs,
    hold_out,
    load_model,
    train,
    trial,
)
from ptycho_bluesky.inference._cold_start import paced_options
from ptycho_bluesky.inference._model import SHIPPED

__all__ = ["train_model"]

logger = logging.getLogger(__name__)

OPTIONS = "options.json"

Index = npt.NDArray[np.intp]


def _begin_with(order: TrainingOrder, folder: Path) -> Path | None:
    """Return a copy of the model to start from: another one may be in service when a killed job is retried."""
    if order.start_from is None:
        return None
    kept = folder / "start.safetensors"
    if not kept.exists():
        library = ModelLibrary()
        if order.start_from == "in-service":
            path = library.path(model_in_service(library)[1])
        elif order.start_from == DEFAULT_MODEL:
            path = SHIPPED / f"{DEFAULT_MODEL}.safetensors"
        elif Path(order.start_from).is_file():
            path = Path(order.start_from)
        else:
            path = library.path(library.find(order.start_from))
        part = kept.with_suffix(".part")
        shutil.copyfile(path, part)
        part.replace(kept)
    return kept


def _options(
    order: TrainingOrder, spec: JobSpec, folder: Path, start: Path | None, conditions: Conditions
) -> TrainingOptions:
    """Return how to train; what a first attempt has chosen is kept, as its checkpoint fits nothing else."""
    kept = folder / OPTIONS
    if kept.exists():
        return TrainingOptions.model_validate_json(kept.read_bytes())
    chosen: dict[str, Any] = {}
    model = None if start is None or "steps" in order.training else load_model(start)
    if isinstance(model, ProbeViTModel):
        chosen = paced_options(model, conditions, order.seconds).model_dump()
    chosen["device"] = spec.device.partition(":")[0]
    if order.data != "both":
        chosen["simulated_share"] = 1.0 if order.data == "simulated" else 0.0
    try:
        options = TrainingOptions.model_validate({**chosen, **order.training})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise InferenceError(report("options of the training", faults)) from None
    atomic_write(kept, options.model_dump_json())
    return options


def _of_some(rec: Reconstruction, index: Index) -> Reconstruction:
    return replace(rec, positions=rec.positions[index], opr_weights=None, opr_modes=None)


def _pairs(lesson: Lesson, order: TrainingOrder) -> tuple[TrainingPairs | None, Index | None]:
    """Return the measured pairs, and the numbers of the frames held out of them."""
    if order.data == "simulated":
        return None, None
    dataset, result = lesson.dataset, lesson.reconstruction
    if dataset is None or result is None:
        what = "frames" if dataset is None else "reconstruction"
        raise InferenceError(
            f"{lesson.where} gives no {what}, and data is {order.data!r}: give frames and their reconstruction, or "
            'train on simulated frames (data "simulated")'
        )
    learnt, held = hold_out(dataset, result.probe, order.held_out)
    return TrainingPairs.of(dataset.subset(learnt), _of_some(result, learnt)), held


def _tried(model_file: Path, lesson: Lesson, held: Index | None) -> GateVerdict | None:
    """Return the verdict on the new model; None where nothing is known to try it on."""
    dataset, result = lesson.dataset, lesson.reconstruction
    if dataset is None or result is None:
        logger.warning("%s gives no frames with their reconstruction: the model is not tried", lesson.where)
        return None
    serving, _ = model_in_service(ModelLibrary())
    try:
        verdict = as_verdict(trial(load_model(model_file), serving, dataset, result, held_out=held))
    except InferenceError as error:
        logger.warning("the model could not be tried: %s", error)
        return None
    for reason in verdict.reasons:
        logger.info("gate %s: %s", "passed" if verdict.passed else "not passed", reason)
    return verdict


def train_model(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> Path | None:
    """Train, try and describe a model; return its file, or None where it was stopped before its first step.

    A job that is retried goes on from its checkpoint.

    Parameters
    ----------
    spec:
        Whose options are a :class:`TrainingOrder`.
    should_stop, on_state:
        As those of :func:`ptycho_bluesky.inference.train`.
    folder:
        Of the job.
    """
    order, begun = TrainingOrder.model_validate(spec.options), time.monotonic()
    lesson = lesson_of(spec, order.reconstruction, should_stop)
    if lesson is None:
        return None
    start, result = _begin_with(order, folder), lesson.reconstruction
    contrast = None if result is None else result.phase_contrast_rad
    conditions = Conditions.of(lesson.probe, _far(lesson.dataset), contrast_rad=contrast)
    options = _options(order, spec, folder, start, conditions)
    pairs, held = _pairs(lesson, order)
    limit = spec.max_seconds or math.inf
    made = folder / "trained.safetensors"
    checkpoint = folder / "checkpoint.pt"

    def run(chosen: dict[str, Any]) -> ProbeViTModel:
        return train(
            made,
            TrainingOptions.model_validate(chosen),
            None if order.size is None else ProbeViTSizes.of(order.size),
            conditions=conditions,
            pairs=pairs,
            start_from=start,
            checkpoint=checkpoint,
            on_state=on_state,
            should_stop=lambda: should_stop() or time.monotonic() - begun > limit,
        )

    def less(chosen: dict[str, Any]) -> dict[str, Any] | None:
        smaller = less_for_training(chosen)
        if smaller is not None:
            checkpoint.unlink(missing_ok=True)  # of a training with other batches
            atomic_write(folder / OPTIONS, TrainingOptions.model_validate(smaller).model_dump_json())
        return smaller

    model = sparing(run, options.model_dump(), less)
    if not model.notes["steps"]:
        return None
    verdict = _tried(made, lesson, held)
    record = model_record(
        made,
        name=order.name,
        probe=lesson.probe,
        data=order.data,
        raw_uids=() if pairs is None else (spec.raw_uid or lesson.where,),
        job_id=spec.job_id,
        probe_from=lesson.where,
        licence=order.licence,
        gate=() if verdict is None else (verdict,),
    )
    np.save(folder / PROBE, lesson.probe)
    atomic_write(folder / RECORD, record.model_dump_json(indent=1))
    checkpoint.unlink(missing_ok=True)
    return made


def _far(dataset: PtychoDataset | None) -> PtychoDataset | None:
    if dataset is not None and dataset.modality != "far-field":
        raise InferenceError(
            f"dataset {dataset.name or '(unnamed)'} is a {dataset.modality} one; networks know the far field only"
        )
    return dataset
