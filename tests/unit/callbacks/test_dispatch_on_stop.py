from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_model import compose_run
from pydantic import ValidationError

from ptycho_bluesky.callbacks import DispatchOnStop
from ptycho_bluesky.dispatch import (
    FollowUp,
    JobSpec,
    JobStatus,
    LocalExecutor,
    TiledSource,
    arrays,
    cancel,
    cancel_array,
)
from ptycho_bluesky.errors import DispatchError
from ptycho_bluesky.experiment import PtychographyMetadata

BLOCK = PtychographyMetadata(frames_key="image", position_keys=("y", "x"), position_unit="px").to_start()


class Recorder:
    """An executor that only remembers."""

    def __init__(self, error: Exception | None = None) -> None:
        self.specs: list[JobSpec] = []
        self.error = error

    def submit(self, spec: JobSpec) -> str:
        if self.error is not None:
            raise self.error
        self.specs.append(spec)
        return spec.job_id

    def poll(self, job_id: str) -> JobStatus:
        raise NotImplementedError

    def cancel(self, job_id: str, grace_s: float = 10.0) -> JobStatus:
        raise NotImplementedError

    def reattach(self, job_id: str) -> JobStatus:
        raise NotImplementedError


def documents(
    count: int, *, way: str = "event", exit_status: str = "success", block: Any = BLOCK
) -> list[tuple[str, dict[str, Any]]]:
    """Documents of a run whose frames come inline, in pages, or in a file."""
    run = compose_run(metadata={} if block is None else {"ptychography": block})
    key: dict[str, Any] = {"dtype": "array", "shape": [4, 4], "source": "sim", "dtype_numpy": "<u2"}
    if way == "file":
        key["external"] = "STREAM:"
    number = {"dtype": "number", "shape": [], "source": "sim"}
    bundle = run.compose_descriptor(
        name="primary", data_keys={"image": key} if way == "file" else {"image": key, "y": number}
    )
    found: list[tuple[str, dict[str, Any]]] = [("start", run.start_doc), ("descriptor", bundle.descriptor_doc)]
    if way == "file":
        resource = run.compose_stream_resource(
            mimetype="application/x-hdf5", uri="file://localhost/x.h5", data_key="image", parameters={}
        )
        found.append(("stream_resource", resource.stream_resource_doc))
        for start in range(0, count, 5):
            stop = min(start + 5, count)
            indices, numbers = {"start": start, "stop": stop}, {"start": start + 1, "stop": stop + 1}
            datum = resource.compose_stream_datum(indices, seq_nums=numbers, descriptor=bundle.descriptor_doc)
            found.append(("stream_datum", datum))
    elif way == "page" and count:
        data = {"image": [np.ones((4, 4))] * count, "y": [0.0] * count}
        stamps = {k: [0.0] * count for k in data}
        numbers = list(range(1, count + 1))
        page = bundle.compose_event_page(
            data=data, timestamps=stamps, seq_num=numbers, time=[0.0] * count, validate=False
        )
        found.append(("event_page", page))
    else:
        for _ in range(count):
            one = {"image": np.ones((4, 4)), "y": 0.0}
            found.append(("event", bundle.compose_event(data=one, timestamps=dict.fromkeys(one, 0.0), validate=False)))
    found.append(("stop", run.compose_stop(exit_status=exit_status)))
    return found


@pytest.mark.parametrize("way", ["event", "page", "file"])
@pytest.mark.parametrize("exit_status", ["success", "abort", "fail"])
def test_each_run_with_enough_frames_becomes_a_job_however_it_ended(home: Path, way: str, exit_status: str) -> None:
    executor = Recorder()
    dispatch = DispatchOnStop("fast", {"epochs": 3}, min_frames=10, priority=2, executor=executor)
    docs = documents(10, way=way, exit_status=exit_status)
    for name, doc in [*docs, *documents(9, way=way)]:
        dispatch(name, doc)
    (spec,) = executor.specs
    assert dispatch.job_ids == [spec.job_id] and dispatch.failures == []
    assert spec.raw_uid == docs[0][1]["uid"] == getattr(spec.source, "uid", None)
    assert (spec.engine, spec.options, spec.priority) == ("fast", {"epochs": 3}, 2)
    assert JobSpec.parse(spec.model_dump_json()) == spec


def test_runs_of_other_kinds_and_of_other_streams_are_left_alone(home: Path) -> None:
    executor = Recorder()
    dispatch = DispatchOnStop(executor=executor)
    other = {**BLOCK, "frames_key": "another"}
    for name, doc in [*documents(20, block=None), *documents(20, block="nonsense"), *documents(20, block=other)]:
        dispatch(name, doc)
    assert executor.specs == [] and dispatch.failures == []


def test_two_runs_at_once_are_told_apart(home: Path) -> None:
    executor = Recorder()
    dispatch = DispatchOnStop(executor=executor, min_frames=10)
    one, two = documents(12), documents(4, way="file")
    for index in range(max(len(one), len(two))):
        for docs in (one, two):
            if index < len(docs):
                dispatch(*docs[index])
    assert [s.raw_uid for s in executor.specs] == [one[0][1]["uid"]]


def test_nothing_is_ever_raised_into_the_run_engine(home: Path) -> None:
    dispatch = DispatchOnStop(executor=Recorder(OSError("disk full")), min_frames=1)
    for name, doc in documents(3):
        dispatch(name, doc)
    dispatch("stop", {})
    assert "disk full" in dispatch.failures[0] and len(dispatch.failures) == 2 and dispatch.job_ids == []


def test_options_that_make_no_job_are_refused_before_the_scan(home: Path) -> None:
    with pytest.raises(ValidationError, match="device"):
        DispatchOnStop(device="abacus")


def test_trainings_that_begin_by_themselves_are_asked_for_with_the_reconstruction(home: Path) -> None:
    executor = Recorder()
    dispatch = DispatchOnStop(
        cold_start=True, fine_tune="after", promote=True, training={"steps": 5}, executor=executor, min_frames=1
    )
    for name, doc in documents(2):
        dispatch(name, doc)
    (spec,) = executor.specs
    assert spec.then == FollowUp(cold_start=True, fine_tune=True, promote=True, training={"steps": 5})
    assert DispatchOnStop(executor=executor, promote=True)._spec.then is None
    with pytest.raises(DispatchError, match='"after"'):
        DispatchOnStop(fine_tune="before")  # type: ignore[arg-type]


class Following(Recorder):
    """An executor whose jobs stand as a test says; with `hold`, a submission takes until that is set."""

    def __init__(self, state: str = "running", *, stopped: bool = False, hold: threading.Event | None = None) -> None:
        super().__init__()
        self.state, self.stopped, self.hold = state, stopped, hold

    def submit(self, spec: JobSpec) -> str:
        if self.hold is not None:
            self.hold.wait(10)
        return super().submit(spec)

    def poll(self, job_id: str) -> JobStatus:
        return JobStatus(job_id, self.state, 0.0, 0.0, stopped=self.stopped)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["event", "page", "file"])
def test_a_job_begins_during_its_scan_once_and_without_the_run_engine_waiting(home: Path, way: str) -> None:
    executor = Following(hold=threading.Event())
    dispatch = DispatchOnStop(grow_from=10, executor=executor)
    *before, (name, stop) = documents(20, way=way)
    for item in before:
        dispatch(*item)
    assert executor.specs == [], "the submission is still under way, and nobody waits for it"
    assert executor.hold is not None
    executor.hold.set()
    dispatch(name, stop)
    (spec,) = executor.specs
    assert (
        spec.source == TiledSource(uid=before[0][1]["uid"], grow=True, wait_s=900.0)
        and spec.raw_uid == stop["run_start"]
    )
    assert dispatch.job_ids == [spec.job_id]
    for item in documents(9):
        dispatch(*item)
    assert len(executor.specs) == 1, "neither enough to begin with, nor to reconstruct"


@pytest.mark.parametrize(
    ("state", "stopped", "again"),
    [
        ("failed", False, True),
        ("lost", False, True),
        ("done", False, True),
        ("done", True, False),
        ("cancelled", False, False),
    ],
)
def test_a_job_that_did_not_see_the_end_of_its_scan_is_followed_by_another_unless_the_user_ended_it(
    home: Path, state: str, stopped: bool, again: bool
) -> None:
    executor = Following(state, stopped=stopped)
    dispatch = DispatchOnStop(grow_from=10, executor=executor)
    for item in documents(20):
        dispatch(*item)
    assert [getattr(spec.source, "grow", None) for spec in executor.specs] == [True, *([False] if again else [])]
    assert dispatch.job_ids == [executor.specs[-1].job_id] and dispatch.failures == []


def test_a_submission_that_fails_during_the_scan_is_made_up_for_at_its_end(home: Path) -> None:
    executor = Following()
    failing = [DispatchError("the disk is full")]

    def submit(spec: JobSpec) -> str:
        if failing:
            raise failing.pop()
        return Recorder.submit(executor, spec)

    executor.submit = submit  # type: ignore[method-assign]
    dispatch = DispatchOnStop(grow_from=10, executor=executor)
    for item in documents(20):
        dispatch(*item)
    assert [getattr(spec.source, "grow", None) for spec in executor.specs] == [False]
    with pytest.raises(DispatchError, match="grow_from is 0"):
        DispatchOnStop(grow_from=0)


def test_runs_of_a_campaign_join_its_array_until_that_is_cancelled(home: Path) -> None:
    executor = Recorder()
    dispatch = DispatchOnStop(executor=executor)
    ties = {"uid": "views", "axis": "rotation_deg", "count": 3}
    for index in range(2):
        for item in documents(20, block={**BLOCK, "campaign": {**ties, "index": index, "value": 1.5 * index}}):
            dispatch(*item)
    (array,) = arrays()
    assert (array.name, array.expected, [m.value for m in array.members]) == ("views", 3, [0.0, 1.5])
    assert [m.spec.job_id for m in array.members] == dispatch.job_ids
    cancel_array("views")
    for item in documents(20, block={**BLOCK, "campaign": {**ties, "index": 2}}):
        dispatch(*item)
    assert len(executor.specs) == 2 and len(arrays()[0].members) == 3 and dispatch.failures == []


def test_the_run_engine_is_held_up_for_less_than_50_ms(home: Path, make_spec: Callable[..., JobSpec]) -> None:
    dispatch = DispatchOnStop(executor=LocalExecutor(), min_frames=1)
    costs = []
    for _ in range(3):
        *before, (name, stop) = documents(3)
        for item in before:
            dispatch(*item)
        begin = time.perf_counter()
        dispatch(name, stop)
        costs.append(time.perf_counter() - begin)
    for job_id in dispatch.job_ids:
        cancel(job_id, grace_s=0)
    assert len(set(dispatch.job_ids)) == 3 and dispatch.failures == []
    assert min(costs) < 0.05


def test_neither_engines_nor_tiled_are_imported() -> None:
    code = """
import sys
import ptycho_bluesky.callbacks
print([name for name in ("torch", "numba", "cupy", "tiled") if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.strip() == "[]"
