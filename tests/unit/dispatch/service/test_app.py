"""The dispatcher's interface: what it gives to whom, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import Executor, FileSource, JobSpec, Ledger, LocalExecutor
from ptycho_bluesky.dispatch._launcher import LocalLauncher
from ptycho_bluesky.dispatch.service._app import app_of

KEY = "k" * 40
GOOD = {"Authorization": f"Bearer {KEY}", "Ptycho-Bluesky-Api": "1"}

Ask = Callable[..., httpx.Response]
Make = Callable[..., JobSpec]


@pytest.fixture
def executor(home: Path, monkeypatch: pytest.MonkeyPatch) -> Executor:
    """An executor whose runners are a name in a file."""
    monkeypatch.setattr(LocalLauncher, "launch", lambda *_: {"kind": "local", "place": "local", "pid": 2**22 - 1})
    monkeypatch.setattr(LocalLauncher, "alive", lambda *_: True)
    monkeypatch.setattr(LocalLauncher, "kill", lambda *_: monkeypatch.setattr(LocalLauncher, "alive", lambda *_: False))
    return LocalExecutor()


@pytest.fixture
def ask(executor: Executor) -> Ask:
    app: Any = app_of(executor, KEY)

    def one(method: str, path: str, headers: Mapping[str, str] = GOOD, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.7", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(send())

    return one


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {'x' * 40}"},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Cookie": f"key={KEY}"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", f"/v1/jobs?key={KEY}"), ("POST", "/v1/jobs"), ("GET", "/nothing")]
)
def test_who_has_no_key_is_told_nothing(ask: Ask, headers: dict[str, str], method: str, path: str) -> None:
    answer = ask(method, path, {**headers, "Ptycho-Bluesky-Api": "1"})
    assert answer.status_code == 401 and set(answer.json()) == {"error"}


def test_the_log_names_the_stranger_and_no_key(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        ask("GET", "/v1/jobs", {"Authorization": "Bearer guessed-key"})
        ask("GET", "/v1/about")
    assert "192.0.2.7" in caplog.text and "guessed-key" not in caplog.text and KEY not in caplog.text


@pytest.mark.parametrize("spoken", [None, "0", "2"])
def test_another_version_is_refused_in_words(ask: Ask, spoken: str | None) -> None:
    headers = {key: value for key, value in {**GOOD, "Ptycho-Bluesky-Api": spoken}.items() if value is not None}
    answer = ask("GET", "/v1/about", headers)
    assert answer.status_code == 400 and "install the same version on both sides" in answer.json()["error"]


def test_a_body_that_never_ends_is_not_read_to_its_end(ask: Ask, home: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10_000_000:
            sent += 10_000
            yield b"x" * 10_000

    assert ask("POST", "/v1/jobs", content=endless()).status_code == 413
    assert sent < 200_000
    assert ask("POST", "/v1/jobs", content=b"x" * 65_537).status_code == 413
    assert Ledger().jobs() == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"recipe": "os.system"}, "no recipe"),
        ({"version": 2}, "version"),
        ({"command": "rm"}, "command"),
        ({"options": {"api_key": "1234"}}, "looks like a secret"),
        ({"source": {"kind": "http", "path": "/x"}}, "source"),
        (None, "spec"),
    ],
)
def test_what_is_no_job_is_refused_in_words(ask: Ask, make_spec: Make, changes: Any, why: str) -> None:
    body = "not JSON" if changes is None else json.dumps({**json.loads(make_spec().model_dump_json()), **changes})
    answer = ask("POST", "/v1/jobs", content=body)
    assert answer.status_code == 400 and why in answer.json()["error"]
    assert Ledger().jobs() == []


def test_files_outside_the_allowed_folders_are_refused_links_followed(
    ask: Ask, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret.h5"
    allowed.mkdir()
    secret.touch()
    (allowed / "scan.h5").touch()
    (allowed / "link.h5").symlink_to(secret)
    monkeypatch.setenv("PTYCHO_BLUESKY_RESOURCES", json.dumps({"local": {"kind": "local", "paths": [str(allowed)]}}))
    settings.cache_clear()

    def submit(path: str, **more: Any) -> httpx.Response:
        spec = JobSpec(source=FileSource(path=path), **more)
        return ask("POST", "/v1/jobs", content=spec.model_dump_json())

    for wrong in (
        str(secret),
        f"{allowed}/../secret.h5",
        str(allowed / "link.h5"),
        f"{allowed}-too/x.h5",
        "/etc/passwd",
    ):
        answer = submit(wrong)
        assert answer.status_code == 403 and "in none of the folders" in answer.json()["error"], wrong
    answer = submit(str(allowed / "scan.h5"), recipe="train", options={"reconstruction": str(secret)})
    assert answer.status_code == 403 and "secret.h5" in answer.json()["error"]
    assert Ledger().jobs() == []
    answer = submit(str(allowed / "scan.h5"))
    assert answer.status_code == 200 and Ledger().status(answer.json()["job_id"]).state == "queued"


@pytest.mark.parametrize("job_id", ["..", "%2e%2e%2f%2e%2e", "a%2Fb", "x.y", "a%00b"])
def test_an_id_is_no_path(ask: Ask, job_id: str) -> None:
    for what in ("", "/log", "/spec"):
        assert ask("GET", f"/v1/jobs/{job_id}{what}").status_code in (400, 404)


def test_a_fault_of_the_service_is_told_without_its_inside(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("something that is nobody's business")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "jobs", broken)
        answer = ask("GET", "/v1/jobs")
    assert answer.status_code == 500 and "nobody" not in answer.text and "log tells more" in answer.json()["error"]


def test_the_way_of_a_job_through_the_interface(ask: Ask, make_spec: Make) -> None:
    spec = make_spec(raw_uid="run")
    job_id = ask("POST", "/v1/jobs", content=spec.model_dump_json()).json()["job_id"]
    assert job_id == spec.job_id
    assert ask("POST", "/v1/jobs", content=spec.model_dump_json()).json()["job_id"] == job_id
    assert [job["job_id"] for job in ask("GET", "/v1/jobs?state=queued").json()["jobs"]] == [job_id]
    assert ask("GET", "/v1/jobs?raw_uid=other").json()["jobs"] == []
    assert ask("GET", f"/v1/jobs/{job_id[:8]}").json()["state"] == "queued"
    assert JobSpec.parse(ask("GET", f"/v1/jobs/{job_id}/spec").content) == spec
    assert [event["state"] for event in ask("GET", f"/v1/jobs/{job_id}/history").json()["history"]] == ["queued"]
    assert ask("GET", f"/v1/jobs/{job_id}/log?lines=5").json() == {"log": ""}
    assert ask("GET", f"/v1/jobs/{job_id}/log?lines=x").status_code == 400
    assert ask("GET", "/v1/about").json()["queued"] == 1
    assert "only failed" in ask("POST", f"/v1/jobs/{job_id}/retry").json()["error"]
    assert ask("POST", f"/v1/jobs/{job_id}/cancel?grace_s=0").json()["state"] == "cancelled"
    assert ask("GET", f"/v1/jobs/{job_id}/cancel").status_code == 405
    assert ask("POST", f"/v1/jobs/{job_id}/retry").json()["attempt"] == 2
