"""What a user reads when a service of Globus refuses something: each comes from the real SDK's real error."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import globus_cloud
import pytest
from globus_sdk.scopes import ComputeScopes
from globus_sdk.token_storage import JSONTokenStorage, TokenStorageData

from ptycho_bluesky._resources import GlobusResource
from ptycho_bluesky.dispatch.globus import _compute
from ptycho_bluesky.dispatch.globus._compute import Compute
from ptycho_bluesky.dispatch.globus._login import globus_app, globus_folder, log_in, log_out
from ptycho_bluesky.dispatch.globus._transfer import Transfer
from ptycho_bluesky.dispatch.globus._words import of_exception
from ptycho_bluesky.errors import FacilityError

CHECK = {"do": "check"}


def said(act: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(FacilityError) as caught:
        act()
    return str(caught.value), caught.value.kind


@pytest.mark.parametrize(
    ("path", "status", "body", "words", "kind"),
    [
        ("/v3/endpoints", 401, {"reason": "Token is not active"}, "run `ptycho-bluesky globus login --again`", "user"),
        ("/v3/endpoints", 429, {"reason": "20 requests in 10 s"}, "too many requests.*in a minute", "machine"),
        ("/v3/endpoints", 413, {"reason": "TASK_PAYLOAD_TOO_LARGE"}, "too large.*name files", "user"),
        ("/v3/endpoints", 403, {"reason": "you are no member"}, "not permitted \\(you are no member\\)", "user"),
        ("/v3/endpoints", 404, {"reason": "ENDPOINT_NOT_FOUND"}, "correct its UUID", "user"),
        ("/v3/endpoints", 503, {"reason": "maintenance"}, "fault of its own \\(503: maintenance\\)", "machine"),
        (
            "/v3/endpoints",
            403,
            {"code": "ConsentRequired", "required_scopes": ["data_access"], "message": "a consent lacks"},
            "a consent is missing.*globus login --again",
            "user",
        ),
    ],
)
def test_what_is_refused_is_told_with_what_to_do(
    compute: Compute,
    cloud: globus_cloud.Cloud,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    status: int,
    body: dict[str, Any],
    words: str,
    kind: str,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the SDK tries again for some seconds
    assert compute.function
    cloud.faults["refuse"] = {path: [status, body, 99]}
    text, found = said(lambda: compute.submit(CHECK))
    assert found == kind and "submitting to endpoint" in text
    assert re.search(words, text), text


def test_a_few_refusals_for_the_rate_are_waited_out(
    compute: Compute, cloud: globus_cloud.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    cloud.faults["refuse"] = {"/v3/endpoints": [429, {"reason": "slower"}, 2]}
    assert compute.ask(CHECK, 10)


def test_an_endpoint_that_is_offline_gets_nothing(compute: Compute, cloud: globus_cloud.Cloud) -> None:
    cloud.faults["endpoint"] = "offline"
    text, kind = said(compute.check_online)
    assert kind == "machine" and f"{globus_cloud.ENDPOINT} is offline; start it" in text


def test_a_function_that_is_not_on_the_allow_list(compute: Compute, cloud: globus_cloud.Cloud) -> None:
    cloud.faults["permitted"] = []
    text, kind = said(lambda: compute.submit(CHECK))
    assert kind == "user" and "allowed_functions" in text
    cloud.faults["permitted"] = [compute.function]
    assert compute.ask(CHECK, 10)


def test_a_submission_that_is_too_large_is_not_sent(
    compute: Compute, cloud: globus_cloud.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compute, "LIMIT", 2000)
    text, kind = said(lambda: compute.submit({"do": "look", "job_id": "x" * 2000}))
    assert kind == "user" and "at most 2000: name files" in text
    assert not any("submit" in line for line in cloud.log)


def test_a_task_that_nobody_knows_any_more(compute: Compute, cloud: globus_cloud.Cloud) -> None:
    cloud.faults["forget"] = True
    text, kind = said(lambda: compute.ask(CHECK, 10))
    assert kind == "machine" and "knows no task" in text and "two weeks" in text


def test_workers_that_are_all_busy(
    compute: Compute, cloud: globus_cloud.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "_told", lambda task, future: {"task_id": task, "status": "waiting-for-nodes"})
    text, kind = said(lambda: compute.ask(CHECK, 0.1))
    assert kind == "machine" and "has not answered within 0 s" in text and "control_endpoint" in text


@pytest.mark.parametrize(
    ("text", "words", "kind"),
    [
        ("...\nModuleNotFoundError: No module named 'ptycho_bluesky'", "workers lack ptycho-bluesky", "user"),
        ("...\nModuleNotFoundError: No module named 'numpy'", "a package is missing.*numpy", "user"),
        (
            "...\nparsl.executors.high_throughput.errors.WorkerLost: gone",
            "lost the worker.*WorkerLost: gone",
            "machine",
        ),
        ("...\nMaxResultSizeExceeded: Task result of 11B exceeded", "too large", "internal"),
        ("...\nZeroDivisionError: division by zero", "failed at the endpoint: ZeroDivisionError: division", "internal"),
        ("", "no reason was given", "internal"),
    ],
)
def test_what_a_worker_says(text: str, words: str, kind: str) -> None:
    found = of_exception(text)
    assert found.kind == kind and re.search(words, str(found))


def test_an_endpoint_without_the_package_says_so(
    compute: Compute, cloud: globus_cloud.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = compute.function
    code = cloud.functions[function].replace("ptycho_bluesky.dispatch", "ptycho_bluesky_dispatch")  # of the same length
    monkeypatch.setitem(cloud.functions, function, code)
    text, kind = said(lambda: compute.ask(CHECK, 10))
    assert kind == "user" and "install the version of this machine there" in text


def test_an_endpoint_with_another_version_says_which(compute: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compute, "__version__", "9.9.9")
    text, kind = said(lambda: compute.ask({"do": "look", "job_id": globus_cloud.HERE}, 10))
    assert kind == "user" and "9.9.9 where the job comes from; install the same version" in text


@pytest.mark.parametrize(
    ("nice", "details", "words", "kind"),
    [
        ("NO_SPACE", "disk quota exceeded", "no space.*disk quota exceeded.*free some", "disk"),
        ("PERMISSION_DENIED", "/project/ptycho", "no permission.*/project/ptycho.*grant it", "user"),
        ("FILE_NOT_FOUND", "data.nxs", "failed: FILE_NOT_FOUND; data.nxs; retry", "machine"),
    ],
)
def test_a_transfer_without_hope_is_ended_and_explained(
    cloud: globus_cloud.Cloud, resource: GlobusResource, nice: str, details: str, words: str, kind: str
) -> None:
    cloud.faults["transfer"] = {"nice_status": nice, "nice_status_details": details}
    with contextlib.closing(globus_app([resource])) as app:
        transfer = Transfer(app, resource, "/home", "/there")
        items = transfer.items([("a", "b")], out=True)
        assert items == [{"source_path": "/home/a", "destination_path": "/there/b"}]
        submission = transfer.submission()
        task = transfer.submit(items, submission, "a test", out=True)
        assert transfer.submit(items, submission, "a test", out=True) == task  # submitted once, however often tried
        text, found = said(lambda: transfer.wait(task, bool, lambda news: None))
    assert found == kind and re.search(words, text), text
    assert cloud.transfers[task]["status"] == "FAILED"  # it does not go on trying for hours


def test_a_transfer_that_is_given_up_is_cancelled(cloud: globus_cloud.Cloud, resource: GlobusResource) -> None:
    cloud.faults["transfer"] = {"nice_status": "Queued"}
    news: list[dict[str, Any]] = []
    with contextlib.closing(globus_app([resource])) as app:
        transfer = Transfer(app, resource, "/home", "/there")
        task = transfer.submit(transfer.items([("a", "b")], out=False), transfer.submission(), "a test", out=False)
        assert transfer.wait(task, lambda: bool(news), news.append) is False
    assert cloud.transfers[task]["status"] == "FAILED" and news == [{"transferred_bytes": 0}]


def stored(server: str, expires_in: float) -> TokenStorageData:
    return TokenStorageData(
        resource_server=server,
        identity_id=globus_cloud.HERE,
        scope="openid",
        access_token=f"access-{server}",
        refresh_token=f"refresh-{server}",
        expires_at_seconds=int(time.time() + expires_in),
        token_type="Bearer",
    )


@pytest.fixture
def person(cloud: globus_cloud.Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOBUS_COMPUTE_CLIENT_SECRET")
    monkeypatch.delenv("GLOBUS_COMPUTE_CLIENT_ID")


def test_a_person_logs_in_once_and_the_login_renews_itself(
    person: None, cloud: globus_cloud.Cloud, resource: GlobusResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    shown: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": shown.append(prompt) or "code")  # type: ignore[func-returns-value]
    log_in([resource])
    log_in([resource])  # once is enough
    assert len(shown) == 1 and cloud.log.count("POST /v2/oauth2/token") == 1
    path = globus_folder() / "tokens.json"
    assert path.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(globus_app([resource])) as app:
        Compute(app, resource).check_online()
    kept = json.loads(path.read_text())
    kept["data"]["DEFAULT"]["funcx_service"]["expires_at_seconds"] = int(time.time()) - 10
    path.write_text(json.dumps(kept))
    with contextlib.closing(globus_app([resource])) as app:
        Compute(app, resource).check_online()
    assert json.loads(path.read_text())["data"]["DEFAULT"]["funcx_service"]["expires_at_seconds"] > time.time()


def test_without_a_login_the_command_is_named(person: None, resource: GlobusResource) -> None:
    with contextlib.closing(globus_app([resource])) as app:
        text, kind = said(Compute(app, resource).check_online)
    assert kind == "user" and "there is no valid Globus login" in text and "run `ptycho-bluesky globus login`" in text


def test_a_login_needs_a_person(person: None, resource: GlobusResource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    text, _ = said(lambda: log_in([resource]))
    assert "a person at a terminal" in text and "GLOBUS_COMPUTE_CLIENT_SECRET" in text


def test_a_login_whose_refresh_is_refused_has_expired(
    person: None, cloud: globus_cloud.Cloud, resource: GlobusResource
) -> None:
    data = stored("funcx_service", -10)
    data.scope = str(ComputeScopes.all)
    storage = JSONTokenStorage(globus_folder() / "tokens.json")
    known = {"funcx_service": data, "auth.globus.org": stored("auth.globus.org", 9e5)}
    storage.store_token_data_by_resource_server(known)
    cloud.faults["auth"] = "invalid_grant"
    with contextlib.closing(globus_app([resource])) as app:
        text, kind = said(Compute(app, resource).check_online)
    assert kind == "user" and "globus login" in text and "access-" not in text and "refresh-" not in text


def test_credentials_that_are_refused(cloud: globus_cloud.Cloud, resource: GlobusResource) -> None:
    cloud.faults["auth"] = "invalid_client"
    text, kind = said(lambda: globus_app([resource]))
    assert kind == "user" and "Globus Auth refuses" in text and "s3cret" not in text


def test_a_secret_without_its_client(resource: GlobusResource, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", "s3cret")
    monkeypatch.delenv("GLOBUS_COMPUTE_CLIENT_ID", raising=False)
    text, _ = said(lambda: globus_app([resource]))
    assert "set both" in text and "s3cret" not in text


def test_tokens_are_kept_from_others_and_revoked(cloud: globus_cloud.Cloud, resource: GlobusResource) -> None:
    globus_app([resource]).close()
    path = globus_folder() / "client.json"
    assert path.stat().st_mode & 0o777 == 0o600 and globus_folder().stat().st_mode & 0o777 == 0o700
    assert "s3cret" not in path.read_text() and "token-funcx_service" in path.read_text()
    count = len(json.loads(path.read_text())["data"]["DEFAULT"])
    assert log_out() == count and not path.exists()
    assert sum(line.endswith("/revoke") for line in cloud.log) == count
