"""What came back becomes the job's own: result and model say of which job they are, and where they were made."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptycho_bluesky.dispatch._entry import PROBE, RECORD
from ptycho_bluesky.dispatch._folder import JobFolder, atomic_write
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._whereabouts import whereabouts
from ptycho_bluesky.dispatch.globus._steps import Steps

__all__ = ["adopt"]

logger = logging.getLogger("ptycho_bluesky.globus")


def adopt(job: JobFolder, spec: JobSpec, steps: Steps, answer: dict[str, Any]) -> Path:
    """Return the result file, in the job's folder, ready to be registered.

    Parameters
    ----------
    job, spec, steps:
        Here.
    answer:
        What the facility said when it was done.
    """
    if answer.get("stopped"):
        job.stop_file.touch()  # it was stopped there: the same is said of it here
    folder = job.path / "back"
    if spec.recipe == "train":
        return _model(job, spec, steps, folder)
    if job.result_file.suffix == ".h5":
        return _reconstruction(job, spec, steps, answer, folder / job.result_file.name)
    own = job.path / f"adopted{job.result_file.suffix}"
    own.write_bytes((folder / job.result_file.name).read_bytes())
    return own


def _reconstruction(job: JobFolder, spec: JobSpec, steps: Steps, answer: dict[str, Any], path: Path) -> Path:
    from ptycho_bluesky.formats import read_reconstruction, write_reconstruction

    result, here = read_reconstruction(path), whereabouts(job)
    there = dict(result.provenance.get("job") or {})
    made = {
        **there,
        **{key: here[key] for key in ("place", "attempt", "queue_s")},
        "kind": "globus",
        "scheduler_job": steps.of("compute").get("task_id") or steps.of("flow").get("run_id"),
        "facility": answer.get("facility", {}),
        "steps_s": steps.seconds(),
    }
    source = steps.of("pack").get("source") or result.provenance.get("source")
    told = {"job_id": job.job_id, "raw_uid": spec.raw_uid, "source": source, "job": made}
    own = job.path / "adopted.h5"  # what came back stays as it is: this can be done again
    write_reconstruction(own, replace(result, provenance={**result.provenance, **told}))
    return own


def _model(job: JobFolder, spec: JobSpec, steps: Steps, folder: Path) -> Path:
    """Take a model over, after its trial against the one in service here: the facility knows another one."""
    from ptycho_bluesky.catalog import ModelRecord
    from ptycho_bluesky.dispatch._sources import lesson_of
    from ptycho_bluesky.dispatch._train_recipe import _pairs, _tried
    from ptycho_bluesky.dispatch._training_spec import TrainingOrder

    order = TrainingOrder.model_validate(spec.options)
    record = ModelRecord.model_validate_json((folder / RECORD).read_bytes())
    lesson, verdict, where = lesson_of(spec, order.reconstruction, bool), None, steps.of("pack")["source"].get("where")
    if lesson is not None:
        where = lesson.where
        verdict = _tried(folder / "model.safetensors", lesson, _pairs(lesson, order)[1])
    uids = record.raw_uids if spec.raw_uid or not record.raw_uids else (where,)
    told = {"job_id": job.job_id, "probe_from": where, "raw_uids": uids, "gate": () if verdict is None else (verdict,)}
    atomic_write(job.path / RECORD, record.model_copy(update=told).model_dump_json(indent=1))
    (job.path / PROBE).write_bytes((folder / PROBE).read_bytes())
    own = job.path / "adopted.safetensors"
    own.write_bytes((folder / "model.safetensors").read_bytes())
    return own
