"""Job arrays: members once, own progress, cancelled as one, retried where something is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from event_model import compose_run

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import (
    JobSpec,
    JobStatus,
    Ledger,
    TiledSource,
    _array,
    array_status,
    arrays,
    cancel_array,
    enter_in_array,
    retry_array,
    submit_array,
)
from ptycho_bluesky.errors import DispatchError

Make = Callable[..., JobSpec]


@pytest.fixture
def asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is done to jobs, which are only entered here: no runner is started."""
    done: list[tuple[str, str]] = []

    def submit(spec: JobSpec) -> str:
        if Ledger().create(spec)[1]:
            done.append(("submit", spec.job_id))
        return spec.job_id

    def act(name: str, state: Any) -> Callable[[str], JobStatus]:
        def to(job_id: str) -> JobStatus:
            done.append((name, job_id))
            return Ledger().record(Ledger().job(job_id), state)

        return to

    monkeypatch.setattr(_array, "submit", submit)
    monkeypatch.setattr(_array, "cancel", act("cancel", "cancelled"))
    monkeypatch.setattr(_array, "retry", act("retry", "queued"))
    return done


def end(job_id: str, state: Any) -> None:
    ledger = Ledger()
    ledger.record(ledger.job(job_id), "running")
    ledger.record(ledger.job(job_id), state)


def test_progress_and_a_retry_that_redoes_only_what_is_missing(asked: list[tuple[str, str]], make_spec: Make) -> None:
    specs = [make_spec(priority=k) for k in range(5)]
    ids = [spec.job_id for spec in specs]
    array = submit_array(specs, name="five")
    assert submit_array(specs, name="five") == array and len(asked) == 5, "entered twice, submitted once"
    assert (array_status(array).left, array_status(array).seconds_left) == (5, None)
    for job_id, state in zip(ids, ("done", "failed", "lost", "cancelled"), strict=False):
        end(job_id, state)
    now = array_status("five")
    assert (now.done, now.failed, now.left, now.expected) == (1, 3, 1, 5)
    assert now.states == {"done": 1, "failed": 1, "lost": 1, "cancelled": 1, "queued": 1}
    first, *_ = (job for job in now.jobs if job is not None)
    assert now.seconds_left == pytest.approx(first.updated - first.created, abs=0.1)
    del asked[:]
    assert retry_array(array[:8]).states == {"done": 1, "queued": 4}
    assert asked == [("retry", job_id) for job_id in ids[1:4]]


def test_cancelled_as_one_and_taken_up_again(asked: list[tuple[str, str]], make_spec: Make) -> None:
    specs = [make_spec(priority=k) for k in range(3)]
    array = submit_array(specs)
    end(specs[0].job_id, "done")
    del asked[:]
    assert cancel_array(array).cancelled and array_status(array).states == {"done": 1, "cancelled": 2}
    assert asked == [("cancel", spec.job_id) for spec in (specs[2], specs[1])], "the last first: none starts meanwhile"
    assert not retry_array(array).cancelled and array_status(array).states == {"done": 1, "queued": 2}


def run_spec(uid: str, **changes: Any) -> JobSpec:
    return JobSpec(source=TiledSource(uid=uid), **changes)


def test_a_campaign_that_is_measured_grows_its_array(
    asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ties = {"uid": "the-campaign", "axis": "rotation_deg", "count": 3}
    for index in (1, 0):
        assert enter_in_array({**ties, "index": index, "value": 45.0 * index}, run_spec(f"run-{index}"))
    assert enter_in_array({**ties, "index": 1}, run_spec("run-1", max_seconds=None))
    (array,) = arrays()
    assert [m.spec.raw_uid for m in array.members] == ["run-0", "run-1"] and array.members[1].value == 45.0
    assert (array.name, array.axis, array.expected, array.states) == ("the-campaign", "rotation_deg", 3, {"missing": 3})
    enter_in_array(ties, run_spec("run-0", engine="lsqml"))
    assert len(arrays()) == 2, "other options, another array"
    cancel_array(array.array_id)
    assert not enter_in_array({**ties, "index": 2}, run_spec("run-2")), "not to be started"
    more: list[str] = []
    monkeypatch.setattr(_array, "submit_array", lambda campaign, **given: more.append(campaign))
    assert retry_array(array.array_id).states == {"queued": 3} and more == ["the-campaign"]


def test_a_torn_line_is_skipped_and_what_is_none_is_refused(asked: list[tuple[str, str]], make_spec: Make) -> None:
    array = submit_array([make_spec()])
    path = _array.find_array(array).path
    with path.open("a") as file:
        file.write('{"job_id": "x", "spec": {')
    cancel_array(array)
    assert array_status(array).cancelled and len(array_status(array).members) == 1
    assert all(len(json.dumps(json.loads(line))) < 64_000 for line in path.read_text().splitlines()[:2])
    with pytest.raises(DispatchError, match="no array with an id"):
        array_status("nonsense")
    with pytest.raises(DispatchError, match="at least one"):
        submit_array([])


def measured(client: Any, index: int, exit_status: str | None = "success", when: float = 0.0) -> str:
    """Write an empty run of a campaign into the catalogue."""
    from bluesky_tiled_plugins import TiledWriter

    ties = {"uid": "campaign-of-energies", "axis": "energy_kev", "index": index, "value": 8.0 + index, "count": 4}
    run = compose_run(metadata={"ptychography": {"campaign": ties}}, time=when)
    write = TiledWriter(client["raw"])
    write("start", run.start_doc)
    if exit_status is not None:
        write("stop", run.compose_stop(exit_status=exit_status))
    return str(run.start_doc["uid"])


@pytest.mark.timeout(60)
def test_a_campaign_of_the_catalogue(
    client: Any, asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptycho_bluesky.dispatch import _campaign_runs

    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", str(client.context.api_uri))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", client.context.api_key)
    settings.cache_clear()
    first, _ = measured(client, 0, when=1.0), measured(client, 0, "abort", when=2.0)
    second, _ = measured(client, 1, "abort", when=3.0), measured(client, 2, None, when=4.0)
    assert _campaign_runs.is_campaign("campaign-of-energies") and not _campaign_runs.is_campaign("another")
    array = submit_array("campaign-of-energies", engine="fast", options={"epochs": 3})
    now = array_status("campaign-of-energies")
    assert [m.spec.raw_uid for m in now.members] == [first, second], "complete before aborted, ended alone"
    assert [m.value for m in now.members] == [8.0, 9.0] and now.members[0].spec.options == {"epochs": 3}
    assert now.states == {"queued": 2, "missing": 2} and now.axis == "energy_kev"
    third = measured(client, 2, when=5.0)
    del asked[:]
    again = retry_array(array)
    assert [m.spec.raw_uid for m in again.members] == [first, second, third]
    assert asked == [("submit", again.members[2].spec.job_id)]
    with pytest.raises(DispatchError, match="no run of a campaign"):
        submit_array("another")
    with pytest.raises(DispatchError, match="device"):
        submit_array("campaign-of-energies", device="abacus")
