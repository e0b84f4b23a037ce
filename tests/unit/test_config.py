from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from ptycho_bluesky.config import Settings, settings
from ptycho_bluesky.errors import ConfigurationError


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Path of an own file of settings; nothing of the machine's settings reaches a test."""
    for key in list(os.environ):
        if key.upper().startswith("PTYCHO_BLUESKY_"):
            monkeypatch.delenv(key)
    path = tmp_path / "settings.toml"
    path.touch()
    monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(path))
    settings.cache_clear()
    yield path
    settings.cache_clear()


def test_defaults_of_an_empty_file() -> None:
    given = settings()
    assert given.heartbeat_s == 2.0
    assert given.tiled_uri is None
    assert given.threads >= 1
    assert given.home.is_absolute()


def test_the_users_own_file_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PTYCHO_BLUESKY_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert settings().heartbeat_s == 2.0


def test_the_file_wins_over_the_default(file: Path) -> None:
    file.write_text('heartbeat_s = 5\ntiled_uri = "http://tiled.example:8000"\n')
    assert settings().heartbeat_s == 5
    assert settings().tiled_uri == "http://tiled.example:8000"


def test_the_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("heartbeat_s = 5\nthreads = 3\n")
    monkeypatch.setenv("PTYCHO_BLUESKY_HEARTBEAT_S", "7")
    assert settings().heartbeat_s == 7
    assert settings().threads == 3


def test_an_argument_wins_over_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("heartbeat_s = 5\n")
    monkeypatch.setenv("PTYCHO_BLUESKY_HEARTBEAT_S", "7")
    assert Settings(heartbeat_s=9).heartbeat_s == 9


def test_settings_are_read_once_until_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first = settings()
    monkeypatch.setenv("PTYCHO_BLUESKY_HEARTBEAT_S", "7")
    assert settings() is first
    settings.cache_clear()
    assert settings().heartbeat_s == 7


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings().threads = 3  # type: ignore[misc]


def test_an_unknown_key_is_refused_by_name(file: Path) -> None:
    file.write_text("heartbeats = 5\n")
    with pytest.raises(ConfigurationError, match=r"settings\.toml.*heartbeats: Extra inputs.*given 5"):
        settings()


def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URL", "http://tiled.example")
    with pytest.raises(ConfigurationError, match=r"PTYCHO_BLUESKY_TILED_URL.*PTYCHO_BLUESKY_TILED_URI"):
        settings()


def test_all_faults_come_in_one_text(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('heartbeat_s = 0\nthreads = "many"\n')
    monkeypatch.setenv("PTYCHO_BLUESKY_LOST_AFTER_S", "-1")
    with pytest.raises(ConfigurationError, match="3 faults") as caught:
        settings()
    for key in ("heartbeat_s", "threads", "lost_after_s"):
        assert key in str(caught.value)


def test_a_file_that_is_no_toml_is_told(file: Path) -> None:
    file.write_text("heartbeat_s == 5")
    with pytest.raises(ConfigurationError, match=r"settings\.toml.*TOML"):
        settings()


def test_a_file_that_was_named_must_be_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(file.with_name("other.toml")))
    with pytest.raises(ConfigurationError, match=r"PTYCHO_BLUESKY_CONFIG.*other\.toml.*does not exist"):
        settings()


def test_the_api_key_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", "secret-key")
    given = settings()
    assert "secret-key" not in f"{given!r} {given}"
    assert given.tiled_api_key is not None
    assert given.tiled_api_key.get_secret_value() == "secret-key"


def test_a_wrong_api_key_never_shows_in_the_error(file: Path) -> None:
    file.write_text('tiled_api_key = ["secret-key"]\n')
    with pytest.raises(ConfigurationError, match="tiled_api_key") as caught:
        settings()
    assert "secret-key" not in str(caught.value)
