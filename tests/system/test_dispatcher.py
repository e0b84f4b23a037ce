"""The dispatcher's process: found, killed, started again; strangers, keys, other consoles; the warm process."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import until

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import (
    Ledger,
    cancel,
    history,
    jobs,
    logs,
    spec_of,
    submit,
    wait,
    warm_up,
)
from ptycho_bluesky.dispatch import status as job_status
from ptycho_bluesky.dispatch._warm_client import end_warm, is_warm
from ptycho_bluesky.dispatch.service import dispatcher
from ptycho_bluesky.dispatch.service._serve import serve
from ptycho_bluesky.errors import ConfigurationError, DispatchError

Make = Callable[..., Any]
LONG = 100_000


@contextmanager
def service(home: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a dispatcher; what it prints goes to ``dispatcher.log`` in its home."""
    with (home / "dispatcher.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ptycho_bluesky.cli", "dispatcher", "--no-warm", *options],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: process.poll() is not None or dispatcher() is not None)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        assert process.wait(30) in (0, -signal.SIGKILL)


def note(home: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((home / "dispatcher.json").read_text())
    return told


def test_killed_and_started_again_it_takes_up_what_lives_and_retries_what_does_not(home: Path, make_spec: Make) -> None:
    with service(home) as first:
        assert stat.S_IMODE((home / "dispatcher.json").stat().st_mode) == 0o600
        job_id = submit(make_spec(LONG))
        entered = history(job_id)[0]
        assert entered["state"] == "queued" and entered["pid"] == first.pid != os.getpid()
        until(lambda: bool(job_status(job_id).progress))
        runner = Ledger().job(job_id).runner_pid()
        assert runner is not None
        first.kill()
        first.wait()
    assert dispatcher() is None and (home / "dispatcher.json").exists()
    assert Ledger().job(job_id).runner_pid() == runner  # nobody is needed for it to go on
    other = submit(make_spec(LONG, raw_uid="other"))  # done by this process
    assert history(other)[0]["pid"] == os.getpid()
    cancel(other)
    with service(home) as second:
        assert dispatcher() is not None and job_status(job_id).state == "running"
        os.kill(runner, signal.SIGKILL)
        until(lambda: job_status(job_id).attempt == 2)
        lost, retried = [event for event in history(job_id) if event["state"] in ("lost", "queued")][-2:]
        assert lost["state"] == "lost" and retried["pid"] == second.pid
        assert "retried by the dispatcher, 1 of 2: the runner ended without a word" in retried["reason"]
        assert cancel(job_id).state == "cancelled"
        until(lambda: Ledger().job(job_id).runner_pid() is None, 5)
    assert not (home / "dispatcher.json").exists()


def test_a_console_elsewhere_has_uri_and_key_and_nothing_shows_the_key(
    home: Path, make_spec: Make, measurement: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_home: Any
) -> None:
    key = "0123456789abcdef" * 4
    resources = json.dumps({"local": {"kind": "local", "paths": [str(measurement.parent)]}})
    given = {"PTYCHO_BLUESKY_DISPATCHER_KEY": key, "PTYCHO_BLUESKY_RESOURCES": resources}
    with service(home, "--host", "0.0.0.0", **given):
        uri = f"http://127.0.0.1:{note(home)['uri'].rsplit(':', 1)[1]}"
        assert note(home)["key"] == key
        use_home(tmp_path / "elsewhere")
        monkeypatch.setenv("PTYCHO_BLUESKY_DISPATCHER_URI", uri)
        settings.cache_clear()
        with pytest.raises(DispatchError, match="PTYCHO_BLUESKY_DISPATCHER_KEY"):
            jobs()
        monkeypatch.setenv("PTYCHO_BLUESKY_DISPATCHER_KEY", "f" * 64)
        settings.cache_clear()
        with pytest.raises(DispatchError, match="the key is missing or wrong"):
            submit(make_spec())
        monkeypatch.setenv("PTYCHO_BLUESKY_DISPATCHER_KEY", key)
        settings.cache_clear()
        spec = make_spec(3)
        job_id = submit(spec)
        assert wait(job_id, 60).state == "done" and spec_of(job_id) == spec
        assert [job.job_id for job in jobs()] == [job_id] and "64 frames" in logs(job_id)
        assert history(job_id)[0]["state"] == "queued"
        with pytest.raises(DispatchError, match="in none of the folders"):
            submit(make_spec(source={"kind": "file", "path": "/etc/hostname"}))
        assert not (tmp_path / "elsewhere" / "jobs").exists()
        lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        assert not [line for line in lines if key in line]
        written = [path for path in home.rglob("*") if path.is_file() and key in path.read_bytes().decode("latin-1")]
        assert written == [home / "dispatcher.json"]
        until(lambda: Ledger(home / "jobs").job(job_id).runner_pid() is None)
    monkeypatch.setenv("PTYCHO_BLUESKY_DISPATCHER_URI", "http://127.0.0.1:9")
    settings.cache_clear()
    with pytest.raises(DispatchError, match=r"does not answer .*ptycho-bluesky dispatcher"):
        submit(make_spec())
    use_home(home)
    monkeypatch.delenv("PTYCHO_BLUESKY_DISPATCHER_URI")
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", "http://127.0.0.1:9")
    settings.cache_clear()


def test_a_stranger_on_this_machine_is_refused_and_there_is_one_service_for_a_home(home: Path) -> None:
    with service(home):
        told = note(home)
        for headers in ({}, {"Authorization": "Bearer x"}):
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                urllib.request.urlopen(urllib.request.Request(f"{told['uri']}/v1/jobs", headers=headers))
            refused.value.close()
        with pytest.raises(DispatchError, match=r"serves .* already"):
            serve()
        assert told["uri"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "beamline.example"])
def test_other_machines_are_served_with_a_key_and_a_list_of_folders_alone(
    home: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DispatchError, match=r"\[resources.local\]"):
        serve(host)
    monkeypatch.setenv("PTYCHO_BLUESKY_RESOURCES", json.dumps({"local": {"kind": "local", "paths": ["/data"]}}))
    settings.cache_clear()
    with pytest.raises(DispatchError, match="PTYCHO_BLUESKY_DISPATCHER_KEY"):
        serve(host)


def test_a_short_key_is_refused_and_not_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYCHO_BLUESKY_DISPATCHER_KEY", "too-short-to-be-told")
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="dispatcher_key") as error:
        settings()
    assert "too-short" not in str(error.value)
    monkeypatch.delenv("PTYCHO_BLUESKY_DISPATCHER_KEY")
    settings.cache_clear()


def test_an_address_that_is_taken_is_named(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(DispatchError, match="cannot listen"):
        serve(port=taken.getsockname()[1])


def test_a_warm_process_forks_runners_that_outlive_it(home: Path, make_spec: Make) -> None:
    folder = Ledger().folder
    warm_up()
    try:
        until(lambda: is_warm(folder))
        warm_up()  # one is enough
        assert stat.S_IMODE((folder / "warm.sock").stat().st_mode) == 0o600
        first, second = submit(make_spec(4)), submit(make_spec(LONG))
        assert wait(first, 60).state == "done"
        until(lambda: bool(job_status(second).progress))
        runner = Ledger().job(second).runner_pid()
        assert runner is not None and os.getsid(runner) == runner
        assert "dispatch._warm" in " ".join(psutil.Process(runner).cmdline())
    finally:
        end_warm(folder)
    assert not is_warm(folder)
    until(lambda: job_status(second).progress["epoch"] > 50)  # the runner goes on
    begin = time.monotonic()
    assert cancel(second).state == "cancelled"
    assert Ledger().job(second).runner_pid() is None and time.monotonic() - begin < 10
    third = submit(make_spec(LONG, raw_uid="cold"))
    cold = Ledger().job(third).runner_pid()
    assert cold is not None and "dispatch.runner" in " ".join(psutil.Process(cold).cmdline())
    assert cancel(third).state == "cancelled"
