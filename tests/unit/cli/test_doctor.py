"""The doctor's tree: each branch, what it says, and what to do."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ptycho_bluesky.cli import _doctor, _doctor_machine, app
from ptycho_bluesky.cli._finding import Finding
from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import CatalogError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, use_home: Callable[[Path], Path]) -> Path:
    return use_home(tmp_path / "home")


def shown(findings: list[Finding]) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(_doctor._tree(findings))
    return out.getvalue()


def test_one_tree_with_a_branch_for_each_group() -> None:
    found = [
        Finding("disk", "OK", "fast", "machine"),
        Finding("clock", "WARN", "start [chrony]", "machine"),
        Finding("Tiled", "FAIL", "away", "services"),
    ]
    lines = [line.rstrip() for line in shown(found).splitlines()]
    assert lines[0] == "ptycho-bluesky"
    assert lines[1:] == [
        "├── machine",
        "│   ├── OK   disk  fast",
        "│   └── WARN clock  start [chrony]",
        "└── services",
        "    └── FAIL Tiled  away",
    ]


def test_what_fails_is_a_finding_and_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Finding:
        raise CatalogError("no Tiled server answers; start it")

    good = Finding("Python", "OK", "3.11")
    monkeypatch.setattr(_doctor, "CHECKS", {"software": (("Python", lambda: good),), "services": (("Tiled", away),)})
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert told["findings"][1] == {
        "what": "Tiled",
        "level": "FAIL",
        "text": "no Tiled server answers; start it",
        "group": "services",
    }


def test_every_check_of_the_tree_is_there() -> None:
    wanted = {"Python", "packages", "notebook", "home", "disk", "shared memory", "GPU", "clock", "ports", "EPICS"}
    wanted |= {"network", "Tiled", "jobs"}
    assert {what for checks in _doctor.CHECKS.values() for what, _ in checks} == wanted


@pytest.mark.parametrize("answer, skew, level", [(0, None, "OK"), (5, None, "WARN"), (0, -7.0, "WARN")])
def test_the_clock(answer: int, skew: float | None, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SimpleNamespace(adjtimex=lambda room: answer)
    monkeypatch.setattr(_doctor_machine.ctypes, "CDLL", lambda name: kernel)
    monkeypatch.setattr(_doctor_machine, "_skew", lambda: skew)
    found = _doctor_machine.clock()
    assert found.level == level
    assert level == "OK" or "chrony" in found.text


def test_the_skew_against_a_tiled_server(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    assert _doctor_machine._skew() is None
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", "http://tiled:8000")
    settings.cache_clear()
    answer = SimpleNamespace(headers={"date": "Thu, 01 Jan 1970 00:00:10 GMT"})
    monkeypatch.setattr(httpx, "get", lambda *_, **__: answer)
    monkeypatch.setattr(_doctor_machine.time, "time", lambda: 4.0)
    assert _doctor_machine._skew() == 6.0


def test_a_slow_disk(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(_doctor_machine, "WRITTEN", 1 << 20)
    assert _doctor_machine.disk().level in ("OK", "WARN")
    monkeypatch.setattr(_doctor_machine, "SLOW_BYTES_S", 1e15)
    assert _doctor_machine.disk().level == "WARN"
    assert not list(home.iterdir())


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(_doctor_machine, "WATCH_PORT", taken.getsockname()[1])
        assert "--port 0" in _doctor_machine.ports().text
    assert _doctor_machine.ports().level == "OK"


def test_epics_that_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, Any] = {"caproto": object()}
    monkeypatch.setattr(_doctor_machine.importlib.util, "find_spec", there.get)
    monkeypatch.setenv("EPICS_CA_AUTO_ADDR_LIST", "NO")
    for name in ("EPICS_CA_ADDR_LIST", "EPICS_PVA_ADDR_LIST", "OPHYD_CONTROL_LAYER"):
        monkeypatch.delenv(name, raising=False)
    assert _doctor_machine.epics().level == "FAIL"
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", "10.0.0.1")
    assert _doctor_machine.epics() == Finding(
        "EPICS", "OK", "caproto; EPICS_CA_ADDR_LIST=10.0.0.1, EPICS_CA_AUTO_ADDR_LIST=NO"
    )
    there.clear()
    assert "[epics]" in _doctor_machine.epics().text
