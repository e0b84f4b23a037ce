"""One job from its turn to its result, in this process: faults are put in by hand."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import FileSource, JobFolder, JobSpec, Ledger, _recipes, register_pending, runner
from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.formats import read_reconstruction

Make = Callable[..., JobSpec]
Result = Callable[..., Reconstruction]


class State:
    epoch, epochs, r_factor, seconds = 1, 2, 0.5, 0.1
    object = np.ones((4, 4), np.complex64)
    probe = np.ones((1, 4, 4), np.complex64)


@pytest.fixture
def run(home: Path, make_spec: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., JobFolder]:
    """Run a job whose recipe is replaced; return its folder."""

    def go(recipe: Any = None, **changes: Any) -> JobFolder:
        job, _ = Ledger().create(make_spec(**changes))
        if recipe is not None:
            monkeypatch.setitem(_recipes.FUNCTIONS, "reconstruct", recipe)
        runner.main(job.path, 1)
        return job

    return go


def test_a_real_reconstruction_is_written_with_its_provenance(run: Callable[..., JobFolder]) -> None:
    job = run(epochs=2, raw_uid="the-run")
    status = job.status()
    assert status.state == "done" and status.registered is False
    assert "the result waits" in status.reason and status.progress["epoch"] == 2
    result = read_reconstruction(job.result_file)
    assert result.provenance["job_id"] == job.job_id and result.provenance["raw_uid"] == "the-run"
    assert job.heartbeat_file.exists()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DatasetError("positions are missing"), "user"),
        (OSError(28, "No space left on device"), "disk"),
        (MemoryError(), "memory"),
        (RuntimeError("a bug"), "internal"),
    ],
)
def test_every_failure_has_a_kind_and_a_reason(run: Callable[..., JobFolder], error: Exception, kind: str) -> None:
    def recipe(*_: Any) -> None:
        raise error

    status = run(recipe).status()
    assert (status.state, status.kind) == ("failed", kind)
    assert str(error) in status.reason or type(error).__name__ in status.reason


def test_a_missing_file_and_an_unknown_engine_are_the_users_to_mend(run: Callable[..., JobFolder]) -> None:
    missing = run(source=FileSource(path="/nowhere/scan.npz")).status()
    assert (missing.state, missing.kind) == ("failed", "user") and "/nowhere/scan.npz" in missing.reason
    unknown = run(engine="perpetual").status()
    assert (unknown.state, unknown.kind) == ("failed", "user") and "perpetual" in unknown.reason
    option = run(source=FileSource(path="/nowhere/scan.npz", options={"colour": "red"})).status()
    assert option.state == "failed" and "colour" in option.reason


def test_a_disk_that_is_full_when_the_result_is_written(
    run: Callable[..., JobFolder], make_result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ptycho_bluesky.formats

    def full(path: Path, result: Reconstruction) -> None:
        raise ptycho_bluesky.errors.FormatError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(ptycho_bluesky.formats, "write_reconstruction", full)
    job = run(lambda *_: make_result())
    assert (job.status().state, job.status().kind) == ("failed", "disk")
    assert not job.result_file.exists()


def test_a_disk_that_is_full_for_progress_does_not_end_the_reconstruction(
    run: Callable[..., JobFolder], make_result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PARTIAL_S", -1.0)
    monkeypatch.setattr(np, "savez", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full")))

    def recipe(spec: Any, should_stop: Any, on_state: Any, folder: Path) -> Reconstruction:
        on_state(State())
        return make_result()

    assert run(recipe).status().state == "done"


def test_partial_results_are_kept_until_there_is_a_whole_one(
    run: Callable[..., JobFolder], make_result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PARTIAL_S", -1.0)

    def failing(spec: Any, should_stop: Any, on_state: Any, folder: Path) -> Reconstruction:
        on_state(State())
        raise RuntimeError("after the first epoch")

    job = run(failing)
    with np.load(job.partial_file) as partial:
        assert partial["object"].shape == (4, 4) and partial["epoch"] == 1
    assert job.status().progress == {"epoch": 1, "epochs": 2, "r_factor": 0.5, "seconds": 0.1, "seconds_left": 0.1}


def test_cancel_and_stop_are_seen_between_epochs(run: Callable[..., JobFolder], make_result: Result) -> None:
    def with_flag(name: str) -> Any:
        def recipe(spec: Any, should_stop: Any, on_state: Any, folder: Path) -> Reconstruction:
            assert not should_stop()
            Ledger().job(spec.job_id).path.joinpath(name).touch()
            assert should_stop()
            return make_result()

        return recipe

    cancelled = run(with_flag("CANCEL"), raw_uid="1")
    assert cancelled.status().state == "cancelled" and not cancelled.result_file.exists()
    stopped = run(with_flag("STOP"), raw_uid="2")
    assert stopped.status().state == "done" and stopped.status().stopped and stopped.result_file.exists()


def test_sigterm_is_a_fault_of_the_machine(run: Callable[..., JobFolder], make_result: Result) -> None:
    def recipe(spec: Any, should_stop: Any, on_state: Any, folder: Path) -> Reconstruction:
        signal.raise_signal(signal.SIGTERM)
        assert should_stop()
        return make_result()

    status = run(recipe).status()
    assert (status.state, status.kind) == ("failed", "machine")


def test_a_second_runner_leaves_the_job_alone(home: Path, make_spec: Make) -> None:
    from ptycho_bluesky._locks import file_lock

    job, _ = Ledger().create(make_spec())
    with file_lock(job.path / "runner.lock"):
        assert runner.main(job.path, 1) == 3
    assert job.status().state == "queued"


def test_a_result_that_exists_is_not_computed_again(run: Callable[..., JobFolder], make_result: Result) -> None:
    calls: list[int] = []

    def recipe(*_: Any) -> Reconstruction:
        calls.append(1)
        return make_result()

    job = run(recipe)
    ledger = Ledger()
    # As if it had been killed between writing the result and saying so.
    job.status_file.write_text("\n".join(job.status_file.read_text().splitlines()[:2]) + "\n")
    ledger.record(job, "lost")
    ledger.record(job, "queued", attempt=2)
    assert runner.main(job.path, 1) == 0
    assert job.status().state == "done" and len(calls) == 1


def test_a_result_that_had_to_wait_for_tiled_is_registered_later_and_once(
    client: Any, run: Callable[..., JobFolder], home: Path, make_result: Result
) -> None:
    job = run(lambda *_: make_result())
    assert job.status().registered is False
    ledger = Ledger()
    assert register_pending(client) == [job.job_id]
    assert job.status().registered is True and job.status().state == "done"
    assert register_pending(client) == [] and ledger.pending() == []
    node = client["processed/ptychography"][job.job_id]
    np.testing.assert_array_equal(node.to_reconstruction().object, make_result().object)


def test_with_tiled_there_the_result_is_registered_at_once_and_takes_waiting_ones_along(
    client: Any, run: Callable[..., JobFolder], home: Path, make_result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = run(lambda *_: make_result(seed=1), raw_uid="a")
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", str(client.context.api_uri))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", client.context.api_key)
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_PATIENCE_S", "10")
    settings.cache_clear()
    job = run(lambda *_: make_result(seed=2), raw_uid="b")
    assert job.status().registered is True and waiting.status().registered is True
    assert {job.job_id, waiting.job_id} <= set(client["processed/ptychography"])
