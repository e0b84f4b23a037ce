from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ptycho_bluesky.catalog import connect, stop_server
from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import CatalogError

CONSOLE = """
import sys
from ptycho_bluesky.catalog import connect
from ptycho_bluesky.config import settings
client = connect(idle_s={idle})
print(client.context.api_uri.port, flush=True)
client.context.close()
{then}
"""


def console(home: Path, idle: float = 60, then: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "PTYCHO_BLUESKY_HOME": str(home)}
    command = [sys.executable, "-c", CONSOLE.format(idle=idle, then=then)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def home(tmp_path: Path, catalog_home: Path, use_home: Callable[[Path], Path]) -> Any:
    """A home whose database is copied: making one takes 3 s."""
    folder = use_home(tmp_path / "home")
    (folder / "tiled").mkdir()
    (folder / "tiled" / "catalog.db").write_bytes((catalog_home / "tiled" / "catalog.db").read_bytes())
    yield folder
    stop_server()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    assert left == []


def test_two_consoles_at_once_get_one_server_which_survives_them_and_keeps_its_key_private(home: Path) -> None:
    with console(home) as one, console(home) as two:
        ports = [c.communicate(timeout=60)[0].strip() for c in (one, two)]
    assert ports[0] == ports[1] != ""
    state = json.loads((home / "tiled" / "server.json").read_text())
    assert psutil.pid_exists(state["pid"])
    assert os.getsid(state["pid"]) == state["pid"]
    for name in ("api_key", "server.log"):
        assert stat.S_IMODE((home / "tiled" / name).stat().st_mode) == 0o600
    key = (home / "tiled" / "api_key").read_text()
    assert key not in (home / "tiled" / "server.log").read_text()
    assert key not in " ".join(psutil.Process(state["pid"]).cmdline())
    connections = psutil.Process(state["pid"]).net_connections(kind="inet")
    assert {c.laddr.ip for c in connections if c.status == "LISTEN"} == {"127.0.0.1"}
    # Killed, it is started again, on the same port, for clients that still know the old one.
    os.kill(state["pid"], signal.SIGKILL)
    client = connect()
    assert client.context.api_uri.port == int(ports[0])
    client.context.close()
    assert stop_server() is True
    assert stop_server() is False


def test_without_requests_and_clients_it_ends(home: Path) -> None:
    with console(home, idle=1.0, then="import time; time.sleep(3)") as living:
        assert living.stdout is not None
        living.stdout.readline()
        pid = json.loads((home / "tiled" / "server.json").read_text())["pid"]
        time.sleep(2.5)
        assert psutil.pid_exists(pid)  # a process that uses it is alive
        living.wait(30)
    deadline = time.monotonic() + 8
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_with_its_folder_it_ends(home: Path) -> None:
    with console(home, idle=600.0, then="pass") as living:
        living.wait(30)
    pid = json.loads((home / "tiled" / "server.json").read_text())["pid"]
    shutil.rmtree(home / "tiled")
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    (home / "tiled" / "catalog.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(CatalogError, match=r"ended with status .*server\.log.*not a database"):
        connect(timeout=30)


def test_a_home_that_cannot_be_written_is_named(use_home: Callable[[Path], Path], tmp_path: Path) -> None:
    (use_home(tmp_path / "home") / "tiled").write_text("a file where a folder should be")
    with pytest.raises(CatalogError, match="PTYCHO_BLUESKY_HOME"):
        connect()


def test_a_configured_server_that_is_away(
    use_home: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(tmp_path)
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", "http://127.0.0.1:9")
    settings.cache_clear()
    before = time.monotonic()
    with pytest.raises(CatalogError, match=r"no Tiled server answers at http://127\.0\.0\.1:9"):
        connect(timeout=0.5)
    assert time.monotonic() - before < 3


def test_a_configured_server_and_a_wrong_key(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", str(client.context.api_uri))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", client.context.api_key)
    settings.cache_clear()
    other = connect(timeout=5)
    assert {"raw", "processed"} <= set(other)
    other.context.close()
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", "wrong")
    settings.cache_clear()
    with pytest.raises(CatalogError, match="TILED_API_KEY"):
        connect(timeout=5)
