"""What travels to a facility and what does not, what it answers, and what is taken over from it."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import globus_cloud
import hypothesis
import numpy as np
import pytest
from globus_compute_sdk.serialize import ComputeSerializer, JSONData
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ptycho_bluesky import __version__
from ptycho_bluesky._resources import GlobusResource
from ptycho_bluesky.cli._app import app
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import FileSource, JobSpec, Ledger, TiledSource
from ptycho_bluesky.dispatch.globus import GlobusLauncher, _launcher, facility
from ptycho_bluesky.dispatch.globus._compute import LIMIT, Compute
from ptycho_bluesky.dispatch.globus._definition import flow_definition, input_schema
from ptycho_bluesky.dispatch.globus._function import ptycho_bluesky_facility
from ptycho_bluesky.dispatch.globus._pace import Pace
from ptycho_bluesky.dispatch.globus._packing import AWAY, pack, questions
from ptycho_bluesky.dispatch.globus._steps import Steps
from ptycho_bluesky.errors import ConfigurationError, DispatchError, FacilityError
from ptycho_bluesky.formats import load_dataset

NOTHING_SEEN = {"home": "/there", "files": [False, False], "run": False}


def asked(**request: Any) -> dict[str, Any]:
    return facility.answer({"version": __version__, **request})


# What travels


def test_files_that_the_facility_sees_do_not_travel(home: Path, make_spec: Callable[..., JobSpec]) -> None:
    spec = make_spec(place="facility", priority=7)
    job, _ = Ledger().create(spec)
    seen = asked(do="see", **questions(job, spec))
    assert seen["files"] == [True, True] and seen["home"] == str(home)
    packed = pack(job, spec, seen, False, bool)
    assert packed is not None and packed.files == ()
    there = JobSpec.model_validate(packed.spec)
    assert (there.source, there.options, there.place, there.priority) == (spec.source, spec.options, AWAY, 0)


def test_another_file_of_the_same_name_is_not_the_same(
    home: Path, make_spec: Callable[..., JobSpec], measurement: Path, tmp_path: Path
) -> None:
    other = tmp_path / "scan.npz"
    data = bytearray(measurement.read_bytes())
    other.write_bytes(data)
    spec = make_spec(source=FileSource(path=str(other)), place="facility")
    job, _ = Ledger().create(spec)
    asking = questions(job, spec)
    data[-5] ^= 1
    other.write_bytes(data)
    assert asked(do="see", **asking)["files"] == [True, False]
    other.unlink()
    assert asked(do="see", **asking)["files"] == [True, False]


def test_what_is_not_seen_travels_as_one_file_without_loss(
    home: Path, make_spec: Callable[..., JobSpec], measurement: Path
) -> None:
    spec = make_spec(place="facility", raw_uid="a-run")
    job, _ = Ledger().create(spec)
    packed = pack(job, spec, NOTHING_SEEN, True, bool)
    assert packed is not None and packed.files == ("data.npz",)  # positions in pixels
    there = JobSpec.model_validate(packed.spec)
    assert there.source == FileSource(path=f"/there/jobs/{job.job_id}/data.npz") and there.raw_uid == "a-run"
    ours, theirs = load_dataset(measurement), load_dataset(job.path / "out" / "data.npz")
    np.testing.assert_array_equal(ours.frames[:], theirs.frames[:])
    np.testing.assert_array_equal(ours.positions, theirs.positions)
    assert packed.source["path"] == str(measurement)


def test_a_run_that_the_facility_finds_in_tiled_does_not_travel(home: Path) -> None:
    spec = JobSpec(source=TiledSource(uid="a-run"), place="facility")
    job, _ = Ledger().create(spec)
    assert questions(job, spec)["run"] == "a-run"
    packed = pack(job, spec, {**NOTHING_SEEN, "run": True}, True, bool)
    assert packed is not None and packed.files == () and packed.spec["source"]["uid"] == "a-run"


def test_a_tiled_server_out_of_reach_is_told_by_the_facility(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facility, "TILED_S", 0.5)
    seen = asked(do="see", run="a-run")
    assert seen["run"] is False and "http://127.0.0.1:9" in seen["why_not"]
    spec = JobSpec(source=TiledSource(uid="a-run"), place="facility")
    job, _ = Ledger().create(spec)
    with pytest.raises(FacilityError, match=r"does not see what the job needs.*127\.0\.0\.1:9.*give the resource"):
        pack(job, spec, seen, False, bool)


def test_a_training_takes_its_model_with_it(home: Path, known_files: Path, tmp_path: Path) -> None:
    start = tmp_path / "own.safetensors"
    start.write_bytes(b"weights")
    options = {"reconstruction": str(known_files / "result.h5"), "start_from": str(start), "data": "both"}
    source = FileSource(path=str(known_files / "scan.npz"))
    spec = JobSpec(recipe="train", source=source, options=options, place="facility")
    job, _ = Ledger().create(spec)
    seen = asked(do="see", **questions(job, spec))
    assert seen["files"] == [True, True, True, True]
    packed = pack(
        job, spec, seen, True, bool
    )  # the files are seen, and yet the facility's training looks in its folder
    assert packed is not None and packed.files == ("data.nxs", "reconstruction.h5", "start.safetensors")
    assert packed.spec["options"]["reconstruction"] == f"{home}/jobs/{job.job_id}/reconstruction.h5"
    assert (job.path / "out" / "start.safetensors").read_bytes() == b"weights"


def test_a_source_that_is_gone_is_said_before_anything_travels(home: Path, make_spec: Callable[..., JobSpec]) -> None:
    spec = make_spec(source=FileSource(path="/nowhere/scan.npz"), place="facility")
    job, _ = Ledger().create(spec)
    with pytest.raises(FacilityError, match=r"/nowhere/scan\.npz cannot be read"):
        questions(job, spec)


def test_all_jobs_of_a_campaign_of_90_tb_are_references(home: Path) -> None:
    """360 views, 50 energies, 5 GB each; each job's request at its largest, and a batch of 100 of them."""
    options = {f"option_{k:02d}": [0.123456789012] * 20 for k in range(60)}
    largest = 0
    for view in range(0, 360, 40):
        for energy in range(0, 50, 10):
            uid = f"{view:03d}-{energy:02d}-{'u' * 190}"
            spec = JobSpec(source=TiledSource(uid=uid), options=options, place="facility", ranks=8, engine="lsqml")
            request = {"do": "run", "job_id": spec.job_id, "spec": spec.model_dump(mode="json"), "version": __version__}
            largest = max(largest, len(ComputeSerializer(None, JSONData()).serialize((request,))))
    assert largest < 64 * 1024 and 100 * largest < LIMIT


# What the facility answers


def test_only_what_is_known_is_answered(home: Path) -> None:
    assert "allowed are check, see, run, look, ask" in asked(do="rm -rf /")["refused"]
    assert "must be a UUID" in asked(do="look", job_id="../../etc")["refused"]
    assert "allowed are stop, cancel" in asked(do="ask", job_id=globus_cloud.HERE, what="kill")["refused"]
    assert asked(do="run", job_id=globus_cloud.HERE, spec={"recipe": "shell"})["refused"]
    assert facility.answer({"do": "look", "version": "0.0.1"})["refused"].startswith("ptycho-bluesky is")
    assert facility.answer({"do": "check", "version": "0.0.1"})["version"] == __version__


def test_the_facility_s_own_list_of_folders_holds(
    home: Path, make_spec: Callable[..., JobSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.toml").write_text('[resources.local]\nkind = "local"\npaths = ["/allowed"]\n')
    monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(tmp_path / "settings.toml"))
    settings.cache_clear()
    spec = make_spec(place=AWAY)
    assert "may read" in asked(do="run", job_id=spec.job_id, spec=spec.model_dump(mode="json"))["refused"]


def test_a_word_for_a_job_that_has_not_begun_waits_for_it(home: Path) -> None:
    told = asked(do="ask", job_id=globus_cloud.HERE, what="cancel")
    assert told["state"] == "queued" and (home / "jobs" / globus_cloud.HERE / "CANCEL").exists()


def test_a_job_runs_once_and_again_only_after_a_failure(
    home: Path, make_spec: Callable[..., JobSpec], make_result: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(place=AWAY)
    endings = iter(["failed", "done"])

    def work(job: Any, slots: int) -> None:
        job.record("running")
        ending = next(endings)
        if ending == "done":
            job.result_file.write_bytes(b"result")
        job.record(ending, kind="memory" if ending == "failed" else "", reason="no memory")

    monkeypatch.setattr(facility, "_work", work)
    run = {"do": "run", "job_id": spec.job_id, "spec": spec.model_dump(mode="json")}
    failed = asked(**run)
    assert (failed["state"], failed["kind"], failed["reason"], failed["files"]) == ("failed", "memory", "no memory", {})
    done = asked(**run)
    assert done["state"] == "done" and done["files"]["result.h5"]["bytes"] == 6
    assert asked(**run)["files"] == done["files"]  # nothing is computed a third time
    assert json.loads(json.dumps(done)) == done
    assert [event["state"] for event in done["history"]] == ["queued", "running", "failed", "queued", "running", "done"]


def test_the_function_is_text_that_says_nothing_but_where_to_go() -> None:
    assert ptycho_bluesky_facility({"do": "nothing"})["refused"]


# On the way


def test_steps_are_kept_and_told(home: Path, make_spec: Callable[..., JobSpec]) -> None:
    job, _ = Ledger().create(make_spec(place="facility"))
    steps = Steps(job)
    steps.note("compute", task_id="17")
    again = Steps(job)
    assert again.of("compute")["task_id"] == "17" and not again.done("compute")
    again.finish("compute", "done at a host")
    assert Steps(job).done("compute") and Steps(job).seconds()["compute"] >= 0
    assert [e["step"].split(" (")[0] for e in job.history() if "step" in e] == ["compute: done at a host"]
    again.forget("compute")
    assert Steps(job).of("compute") == {}
    (job.path / "flow.json").write_text("{torn")
    assert Steps(job).of("compute") == {}


@hypothesis.settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 3), min_size=5, max_size=20))
def test_no_window_holds_more_requests_than_are_allowed(pauses: list[float]) -> None:
    now, moments = [1000.0], list[float]()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(time, "time", lambda: now[0]),
        mock.patch.object(time, "sleep", lambda s: now.__setitem__(0, now[0] + s)),
    ):
        for pause in pauses:
            now[0] += pause
            Pace(Path(folder) / "pace", requests=3, window_s=5.0).take()
            moments.append(now[0])
    for first, fourth in zip(moments, moments[3:], strict=False):
        assert fourth - first >= 5.0 - 1e-6


def test_the_way_is_the_same_for_each_function_text_and_asks_little(
    compute: Compute, cloud: globus_cloud.Cloud
) -> None:
    assert compute.ask({"do": "check"}, 10)
    assert compute.ask({"do": "check"}, 10)
    assert sum("functions" in line for line in cloud.log) == 1


def test_the_definition_names_what_its_input_has() -> None:
    states, schema = flow_definition()["States"], input_schema()["properties"]
    paths = [
        value for state in states.values() for key, value in state.get("Parameters", {}).items() if key.endswith(".$")
    ]
    paths += [value for key, value in states["Compute"]["Parameters"]["tasks"][0].items() if key.endswith(".$")]
    assert paths
    for path in paths:
        part, field = path.removeprefix("$.").split(".")
        assert field in schema[part]["properties"], path
    ways = {state.get("Next") for state in states.values()} | {s.get("Default") for s in states.values()}
    assert {way for way in ways if way} | {"Travels", "TransferOut", "TransferBack"} == set(states)


# Resources and commands


def test_half_a_transfer_and_a_flow_without_one_are_refused() -> None:
    given = {"kind": "globus", "endpoint": globus_cloud.ENDPOINT}
    with pytest.raises(ValueError, match="a transfer has two ends"):
        GlobusResource(**given, collection=globus_cloud.HERE)
    with pytest.raises(ValueError, match="a flow transfers data"):
        GlobusResource(**given, flow=globus_cloud.HERE)
    assert str(GlobusResource(**given).watching) == globus_cloud.ENDPOINT


def test_check_tells_what_is_there(cloud: globus_cloud.Cloud, configured: Callable[..., None]) -> None:
    configured()
    found = CliRunner().invoke(app, ["globus", "check", "facility", "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["work"]["version"] == __version__ and told["function"] in cloud.functions
    other = CliRunner().invoke(app, ["globus", "check", "elsewhere"])
    assert isinstance(other.exception, ConfigurationError) and "there are facility" in str(other.exception)


def test_a_flow_is_deployed_brought_up_to_date_and_needed(
    cloud: globus_cloud.Cloud, configured: Callable[..., None], tmp_path: Path, make_spec: Callable[..., JobSpec]
) -> None:
    configured()
    (tmp_path / "spec.json").write_text(make_spec().model_dump_json())
    without = CliRunner().invoke(app, ["globus", "flow", "run", "facility", str(tmp_path / "spec.json")])
    assert isinstance(without.exception, ConfigurationError) and "flow deploy facility" in str(without.exception)
    made = json.loads(CliRunner().invoke(app, ["globus", "flow", "deploy", "facility", "--json"]).stdout)["flow"]
    cloud.flows[made]["definition"] = {}
    configured(flow=made)
    again = CliRunner().invoke(app, ["globus", "flow", "deploy", "facility", "--json"])
    assert json.loads(again.stdout)["flow"] == made and cloud.flows[made]["definition"] == flow_definition()


def test_without_the_packages_the_extra_is_named(
    home: Path, resource: GlobusResource, make_spec: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_launcher, "find_spec", lambda name: None if "compute" in name else name)
    monkeypatch.setitem(sys.modules, "globus_compute_sdk", None)
    with pytest.raises(DispatchError, match=r"globus_compute_sdk missing.*ptycho-bluesky\[globus\]"):
        GlobusLauncher("facility", resource).launch(Ledger().create(make_spec())[0])
    found = CliRunner().invoke(app, ["globus", "logout"])
    assert "pip install 'ptycho-bluesky[globus]'" in str(found.exception)
