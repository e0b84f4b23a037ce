"""Trainings that begin by themselves when a reconstruction is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ptycho_bluesky.catalog import ModelLibrary
from ptycho_bluesky.dispatch import (
    FollowUp,
    JobFolder,
    JobSpec,
    Ledger,
    LocalExecutor,
    ReconstructionSource,
    TrainingOrder,
    _follow_up,
    runner,
)
from ptycho_bluesky.dispatch.models import add_model
from ptycho_bluesky.errors import DispatchError
from ptycho_bluesky.formats import write_reconstruction
from ptycho_bluesky.inference import load_model


@pytest.fixture
def done(home: Path, make_spec: Callable[..., JobSpec], known_scan: Any) -> Callable[..., JobFolder]:
    """Return a function that makes a finished reconstruction job, whose result is the known scan's."""

    def make(**then: Any) -> JobFolder:
        job, _ = Ledger().create(make_spec(raw_uid="the-run", then=FollowUp(**then) if then else None))
        write_reconstruction(job.result_file, known_scan[1])
        return job

    return make


def test_the_first_reconstruction_of_a_probe_begins_a_cold_start_and_the_next_one_a_fine_tuning(
    done: Callable[..., JobFolder], tmp_path: Path, known_scan: Any
) -> None:
    job, ledger = done(cold_start=True, fine_tune=True, promote=True, training={"steps": 7}), Ledger()
    first = _follow_up.follow_up(job, ledger)
    assert first is not None and first.recipe == "train" and first.raw_uid == "the-run" and first.priority == -10
    assert first.source == ReconstructionSource(job_id=job.job_id)
    order = TrainingOrder.model_validate(first.options)
    assert (order.data, order.start_from, order.promote, order.training) == ("simulated", "default", True, {"steps": 7})
    ledger.create(first)  # it waits for its turn: the probe is being learnt
    second = _follow_up.follow_up(job, ledger)
    assert second is not None and second.options["start_from"] == "in-service" and second.options["data"] == "both"
    ledger.record(ledger.job(first.job_id), "failed")
    assert _follow_up.follow_up(job, ledger) == first
    shipped = Path(load_model.__code__.co_filename).parent / "weights" / "default.safetensors"
    moved = np.roll(known_scan[1].probe, 3, axis=-1) * np.exp(2j)
    add_model(shipped, ModelLibrary(), probe=np.asarray(moved, np.complex64))
    assert _follow_up.follow_up(job, ledger) == second


def test_a_cold_start_alone_begins_once_and_nothing_begins_where_nothing_was_asked_for(
    done: Callable[..., JobFolder], known_scan: Any
) -> None:
    job, ledger = done(cold_start=True), Ledger()
    first = _follow_up.follow_up(job, ledger)
    assert first is not None
    ledger.create(first)
    assert _follow_up.follow_up(job, ledger) is None
    assert _follow_up.follow_up(done(), ledger) is None
    near = done(cold_start=True, training={"steps": 1})
    write_reconstruction(near.result_file, replace(known_scan[1], modality="near-field"))
    assert _follow_up.follow_up(near, ledger) is None


def test_probes_are_alike_whatever_their_place_phase_scale_and_frame(known_scan: Any) -> None:
    probe = known_scan[1].probe
    assert _follow_up.probe_likeness(probe, np.roll(probe, (2, -3), axis=(1, 2)) * 5j) == pytest.approx(1, abs=1e-3)
    padded = np.pad(probe, ((0, 0), (32, 32), (32, 32)))
    assert _follow_up.probe_likeness(probe, padded) > 0.95
    y, x = np.mgrid[-32:32, -32:32]
    blurred = probe * np.exp(0.05j * (y**2 + x**2))
    assert _follow_up.probe_likeness(probe, blurred) < 0.9


def test_the_runner_submits_the_training_and_a_failure_to_do_so_is_not_the_reconstructions(
    done: Callable[..., JobFolder], monkeypatch: pytest.MonkeyPatch, make_spec: Callable[..., JobSpec]
) -> None:
    submitted: list[JobSpec] = []

    def submit(self: Any, spec: JobSpec) -> str:
        if len(submitted) == 1:
            raise DispatchError("the disk is full")
        submitted.append(spec)
        return spec.job_id

    monkeypatch.setattr(LocalExecutor, "submit", submit)
    job = done(cold_start=True)
    assert runner.main(job.path, 1) == 0
    assert job.status().state == "done" and job.status().follow_up == submitted[0].job_id
    other, _ = Ledger().create(make_spec(raw_uid="other", then=FollowUp(cold_start=True)))
    other.result_file.write_bytes(job.result_file.read_bytes())
    assert runner.main(other.path, 1) == 0
    assert other.status().state == "done" and other.status().follow_up == ""


def test_follow_ups_leave_the_identity_of_other_jobs_alone(make_spec: Callable[..., JobSpec]) -> None:
    plain = make_spec()
    assert "then" in json.loads(plain.model_dump_json())
    assert plain.job_id == make_spec(then=None).job_id != make_spec(then=FollowUp(fine_tune=True)).job_id
    with pytest.raises(ValidationError, match="a reconstruction is the source of a training"):
        make_spec(source=ReconstructionSource(job_id="x"))
    with pytest.raises(ValidationError, match="then is for reconstructions"):
        JobSpec(recipe="train", source=ReconstructionSource(job_id="x"), then=FollowUp())
