"""A real RE Manager with Redis: a scan is queued, run, and its reconstruction found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from services import redis_server, running
from waiting import free_port

from ptycho_bluesky.catalog import connect, find_reconstructions, stop_server
from ptycho_bluesky.dispatch import jobs, wait

PROFILES = Path(__file__).parents[2] / "profiles"


def configured(folder: Path) -> tuple[str, str]:
    """Copy the shipped profile and its queue server, with free ports, and return the addresses."""
    shutil.copytree(PROFILES, folder)
    file, control, info = folder / "queueserver" / "re-manager.yml", free_port(), free_port()
    file.write_text(file.read_text().replace("60615", str(control)).replace("60625", str(info)))
    return f"tcp://127.0.0.1:{control}", f"tcp://127.0.0.1:{info}"


def measure(folder: Path, addresses: tuple[str, str]) -> dict[str, Any]:
    """Serve `folder`, and be its user."""
    with redis_server(folder / "redis") as redis:
        command = [str(Path(sys.executable).with_name("start-re-manager")), "--config", "queueserver/re-manager.yml"]
        with running(command, folder / "manager.log", cwd=folder, REDIS_ADDRESS=redis.address):
            client = [sys.executable, str(Path(__file__).with_name("queue_client.py")), *addresses]
            done = subprocess.run(client, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, f"{done.stderr[-2000:]}\n{(folder / 'manager.log').read_text()[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(300)
def test_a_queued_scan_is_run_and_its_reconstruction_found(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    pytest.importorskip("bluesky_queueserver_api", reason="bluesky_queueserver_api: install the extra queueserver")
    use_home(tmp_path / "home")
    found = measure(tmp_path / "profiles", configured(tmp_path / "profiles"))
    try:
        allowed = found["allowed"]
        described = {one["name"]: one for one in allowed["ptycho_map"]["parameters"]}
        assert "micrometres" in described["step_um"]["description"]
        assert {"ptycho_map", "ptycho_scan"} <= set(allowed) and not any(not n.startswith("ptycho_") for n in allowed)
        assert {"detector", "stage"} <= set(found["devices"])
        assert "height_um" in found["wrong_type"] and "valid number" in found["wrong_type"]
        assert "'mv' is not in the list of allowed plans" in found["not_allowed"]
        assert found["result"]["exit_status"] == "completed", found["result"]
        (uid,) = found["result"]["run_uids"]
        (job,) = jobs(raw_uid=uid)
        assert wait(job.job_id, 100).state == "done"
        catalog = connect()
        with catalog.context:
            (result,) = find_reconstructions(catalog, uid)
            assert result.raw.metadata["start"]["sample"] == "queued" and result.metadata["r_factor"] < 0.4
    finally:
        stop_server()
