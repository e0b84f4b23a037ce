"""The steps of the way against a facility that answers as it is told to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ptycho_bluesky._resources import GlobusResource
from ptycho_bluesky.dispatch import JobFolder, JobSpec, Ledger
from ptycho_bluesky.dispatch.globus import _flow
from ptycho_bluesky.dispatch.globus._flow import Flow
from ptycho_bluesky.errors import FacilityError
from ptycho_bluesky.formats import read_reconstruction, write_reconstruction

HOST = {"host": "there", "version": "0.1.0", "python": "3.11"}


class Told:
    """Instead of Compute: its answers to the run, one each time it is asked; an error is raised or returned."""

    def __init__(self, answers: Iterable[Any], home: Path) -> None:
        self.run, self.home, self.requests = iter(answers), home, list[dict[str, Any]]()

    def check_online(self) -> None:
        pass

    def ask(self, request: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.requests.append(request)
        return {"home": str(self.home), "files": [True, True], "run": False}

    def submit(self, request: dict[str, Any], *, watching: bool = False) -> dict[str, str]:
        self.requests.append(request)
        return {"task_id": request["do"], "task_group_id": "group"}

    def answers(self, tasks: list[str]) -> dict[str, Any]:
        answer = next(self.run)
        if isinstance(answer, FacilityError) and "away" in str(answer):
            raise answer
        return {"run": answer, "look": {"state": "running", "progress": {"epoch": 3}}}

    def asked(self, do: str) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["do"] == do]


@pytest.fixture
def job(home: Path, make_spec: Callable[..., JobSpec]) -> JobFolder:
    job, _ = Ledger().create(make_spec(place="facility"))
    job.record("running")
    return job


@pytest.fixture
def answer(tmp_path: Path, job: JobFolder, make_result: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Return a function that makes the facility's last word; a result lies in its folder."""
    theirs = tmp_path / "there" / "jobs" / job.job_id
    theirs.mkdir(parents=True)
    write_reconstruction(theirs / "result.h5", make_result(provenance={"job_id": "theirs", "job": {"nodes": "n1"}}))
    digest = hashlib.sha256((theirs / "result.h5").read_bytes()).hexdigest()

    def make(state: str = "done", **more: Any) -> dict[str, Any]:
        known = {"state": state, "kind": "", "reason": "", "progress": {}, "stopped": False, "history": [], "log": ""}
        return {**known, "files": {"result.h5": {"bytes": 1, "sha256": digest}}, "facility": HOST, **more}

    return make


@pytest.fixture
def way(
    job: JobFolder, resource: GlobusResource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Flow, Told, list[dict[str, Any]]]]:
    def make(*answers: Any) -> tuple[Flow, Told, list[dict[str, Any]]]:
        told, news = Told(answers, tmp_path / "there"), list[dict[str, Any]]()
        monkeypatch.setattr(_flow, "globus_app", lambda resources: None)
        monkeypatch.setattr(_flow, "Compute", lambda app, resource: told)
        return Flow(job, job.spec(), resource, bool, news.append), told, news

    return make


def steps(job: JobFolder) -> str:
    return "\n".join(event["step"] for event in job.history() if "step" in event)


def test_what_comes_back_is_ours(way: Callable[..., Any], job: JobFolder, answer: Callable[..., Any]) -> None:
    flow, told, news = way(None, answer(history=[{"t": 0.0, "state": "running"}]))
    made = flow.run()
    result = read_reconstruction(made).provenance
    assert result["job_id"] == job.job_id and result["job"]["nodes"] == "n1" and result["job"]["facility"] == HOST
    assert result["job"]["scheduler_job"] == "run" and set(result["job"]["steps_s"]) >= {"pack", "compute"}
    assert {"epoch": 3, "stage": "compute", "state_there": "running"} in news
    assert [r["do"] for r in told.requests] == ["see", "run", "look", "look"]
    assert "compute: done at there" in steps(job) and "at the facility" in steps(job)
    again, told, _ = way()
    assert again.run() == made and told.requests == []  # all steps are done


def test_a_wish_to_stop_is_passed_on_and_the_result_is_kept(
    way: Callable[..., Any], job: JobFolder, answer: Callable[..., Any]
) -> None:
    job.stop_file.touch()
    flow, told, _ = way(None, None, answer(stopped=True))
    assert flow.run() is not None
    assert [r["what"] for r in told.asked("ask")] == ["stop"]  # said once
    job.stop_file.unlink()
    flow, _, _ = way()
    flow.run()
    assert job.stop_file.exists()  # it was stopped there


def test_a_cancelled_job_is_called_back_and_asked_for_anew_by_a_retry(
    way: Callable[..., Any], job: JobFolder, answer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, told, _ = way()
    flow.steps.finish("pack", "", spec=job.spec().model_dump(mode="json"), files=[], source={}, there="", shared=True)
    flow.steps.finish("transfer out", "")
    flow.steps.note("compute", task_id="run")
    job.cancel_file.touch()
    monkeypatch.setattr(_flow, "RECALL_S", 0.05)
    told.run = iter([None] * 20)
    assert flow.run() is None
    flow.recall()
    assert [r["what"] for r in told.asked("ask")] == ["cancel"]
    flow.steps.note("compute", task_id="run")  # of an earlier courier; this one had not had its turn
    flow.recall()
    assert [r["what"] for r in told.asked("ask")] == ["cancel", "cancel"]
    job.cancel_file.unlink()
    flow, told, _ = way(answer("cancelled", reason="cancelled by the user"))
    with pytest.raises(FacilityError, match="the facility says cancelled: cancelled by the user"):
        flow.run()  # this one was cancelled by somebody there
    assert told.asked("run")


def test_a_job_that_failed_there_fails_here_in_its_words(
    way: Callable[..., Any], job: JobFolder, answer: Callable[..., Any]
) -> None:
    flow, _, _ = way(answer("failed", kind="memory", reason="not enough memory", log="Traceback of the facility"))
    with pytest.raises(FacilityError, match=r"^compute: the facility says failed: not enough memory") as caught:
        flow.run()
    assert caught.value.kind == "memory" and "Traceback of the facility" in job.log_tail()
    flow, told, _ = way(answer())
    assert flow.run() is not None and len(told.asked("run")) == 1 and not told.asked("see")  # packed already


def test_globus_away_is_waited_out_but_not_for_ever(
    way: Callable[..., Any], job: JobFolder, answer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = FacilityError("Globus is away")
    flow, told, _ = way(away, away, answer())
    assert flow.run() is not None and len(told.asked("run")) == 1
    flow.steps.forget("compute")
    monkeypatch.setattr(_flow, "PATIENCE_S", 0.05)
    flow, _, _ = way(*[away] * 10)
    with pytest.raises(FacilityError, match="compute: Globus is away"):
        flow.run()
    flow, told, _ = way(answer())
    assert flow.run() is not None and not told.asked("run")  # the task of before is taken up
    flow.steps.forget("compute")
    flow, _, _ = way(FacilityError("away: log in", "user"))
    with pytest.raises(FacilityError, match="log in"):
        flow.run()  # waiting does not help


def test_a_task_that_was_lost_is_submitted_anew_by_a_retry(
    way: Callable[..., Any], job: JobFolder, answer: Callable[..., Any]
) -> None:
    flow, _, _ = way(FacilityError("the endpoint lost the worker"))
    with pytest.raises(FacilityError, match="compute: the endpoint lost the worker"):
        flow.run()
    flow, told, _ = way(answer())
    assert flow.run() is not None and len(told.asked("run")) == 1


def test_a_result_that_cannot_be_fetched_or_came_back_damaged(
    way: Callable[..., Any], job: JobFolder, answer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "there" / "jobs" / job.job_id / "result.h5").write_bytes(b"another")
    flow, _, _ = way(answer())
    monkeypatch.setattr(flow, "_move", lambda *args, **kwargs: "moved")
    with pytest.raises(FacilityError, match=r"transfer back: result\.h5 came back damaged"):
        flow.run()
    flow, _, _ = way()
    flow.resource = flow.resource.model_copy(update={"collection": None})
    with pytest.raises(FacilityError, match=r"result\.h5 cannot be fetched.*give collection"):
        flow.run()
