from __future__ import annotations

import time
from typing import Any

import pytest

from ptycho_bluesky.catalog import _later, connect_later
from ptycho_bluesky.errors import CatalogError


class Client(dict[str, int]):
    uri = "http://here"


def test_it_returns_at_once_and_is_the_client_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def slow(timeout: float) -> Client:
        time.sleep(0.2)
        return Client(raw=1)

    monkeypatch.setattr(_later, "connect", slow)
    catalog = connect_later(told.append)
    assert "connecting" in repr(catalog)
    assert catalog["raw"] == 1 and catalog.uri == "http://here" and "raw" in catalog and len(catalog) == 1
    assert list(catalog) == ["raw"] and repr(catalog) == "{'raw': 1}"
    deadline = time.monotonic() + 5
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told == [{"raw": 1}]
    assert not hasattr(catalog, "_repr_html_")


def test_a_failure_is_said_at_the_first_use_and_the_next_use_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = [CatalogError("no server"), CatalogError("no server"), Client(raw=2)]

    def connect(timeout: float) -> Client:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Client)
        return answer

    monkeypatch.setattr(_later, "connect", connect)
    catalog = connect_later()
    with pytest.raises(CatalogError, match="no server"):
        catalog.client()
    assert "not reachable: no server" in repr(catalog)
    assert catalog["raw"] == 2


def test_what_fails_afterwards_is_logged_and_the_rest_is_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []

    def bad(client: Any) -> None:
        raise ValueError("disk")

    monkeypatch.setattr(_later, "connect", lambda timeout: Client())
    catalog = connect_later(bad, told.append)
    catalog.client()
    deadline = time.monotonic() + 5
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told and "bad failed; call it again by hand" in caplog.text
