"""A Tiled server with users, as profiles/tiled configures it: what a proposal measured is seen by its people alone."""

from __future__ import annotations

import runpy
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from event_model import compose_run
from services import postgres, redis_server, tiled_of
from waiting import free_port, until

from ptycho_bluesky.catalog import connect, find_reconstructions, find_run, register_reconstruction, tiled_writer
from ptycho_bluesky.config import settings
from ptycho_bluesky.experiment import Reconstruction

PROFILE = Path(__file__).parents[2] / "profiles" / "tiled"
pytestmark = [pytest.mark.xdist_group("tiled-server"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Address, and a key of each user."""
    folder, port = tmp_path_factory.mktemp("users"), free_port()
    (folder / "files").mkdir()
    passwords = {name: uuid.uuid4().hex for name in ("alice", "bob", "admin")}
    configuration = folder / "tiled.yml"
    configuration.write_text((PROFILE / "users.yml").read_text().replace("port: 8000", f"port: {port}"))
    tiled = str(Path(sys.executable).with_name("tiled"))
    with postgres() as database, redis_server(folder / "redis") as redis:
        catalog, auth = database.uri("catalog"), database.uri("auth")
        for arguments in (["catalog", "init", "--if-not-exists", catalog], ["admin", "initialize-database", auth]):
            subprocess.run([tiled, *arguments], check=True, capture_output=True)
        environment = {
            "CATALOG_URI": catalog,
            "STORAGE_URI": database.uri("storage"),
            "AUTH_URI": auth,
            "AUTH_SECRET": uuid.uuid4().hex,
            "FILES_DIR": str(folder / "files"),
            "DATA_DIR": str(folder),
            "REDIS_URI": f"redis://{redis.address}/0",
            **{f"PASSWORD_{name.upper()}": word for name, word in passwords.items()},
        }
        compiled = [sys.executable, str(PROFILE / "compile_tags.py")]
        subprocess.run(compiled, check=True, capture_output=True, env={**environment})
        with tiled_of(configuration, port, folder, 150, **environment) as uri:
            keys = {name: _key(uri, name, word) for name, word in passwords.items()}
            command = [sys.executable, str(PROFILE / "prepare.py"), uri]
            subprocess.run(command, check=True, capture_output=True, env={"TILED_API_KEY": keys["admin"]})
            yield uri, keys


def _key(uri: str, user: str, password: str) -> str:
    with httpx.Client(base_url=f"{uri}/api/v1", timeout=60.0) as client:
        form = {"username": user, "password": password}
        token = client.post("/auth/provider/local/token", data=form).raise_for_status().json()["access_token"]
        asked = {"expires_in": 3600, "scopes": ["inherit"], "note": "test"}
        answer = client.post("/auth/apikey", json=asked, headers={"Authorization": f"Bearer {token}"})
        return str(answer.raise_for_status().json()["secret"])


@pytest.fixture
def as_user(
    server: tuple[str, dict[str, str]],
    tmp_path: Path,
    use_home: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str], Any]]:
    uri, keys = server
    made: list[Any] = []

    def become(user: str) -> Any:
        use_home(tmp_path / user)
        monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", uri)
        monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", keys[user])
        settings.cache_clear()
        made.append(connect(30))
        return made[-1]

    yield become
    for client in made:
        client.context.close()


def test_runs_and_results_of_a_proposal_are_its_people_s(
    as_user: Callable[[str], Any], make_result: Callable[..., Reconstruction]
) -> None:
    alice = as_user("alice")
    run = compose_run(metadata={"plan_name": "test", "tiled_access_tags": ["proposal-1"]})
    number = {"dtype": "number", "shape": [], "source": "sim", "dtype_numpy": "<f8"}
    primary = run.compose_descriptor(name="primary", data_keys={"stage_y": number})
    write, uid, job = tiled_writer(alice, stop_wait_s=60.0), run.start_doc["uid"], str(uuid.uuid4())
    write("start", run.start_doc)
    write("descriptor", primary.descriptor_doc)
    write("event", dict(primary.compose_event(data={"stage_y": 1.0}, timestamps={"stage_y": 0.0})))
    write("stop", run.compose_stop())
    until(lambda: find_run(alice, uid) is not None, 60, "the arrival of the run")
    result = make_result()
    register_reconstruction(alice, result, job_id=job, raw_uid=uid)
    register_reconstruction(alice, result, job_id="of-a-file")
    (found,) = find_reconstructions(alice, uid)
    np.testing.assert_array_equal(found.object, result.object)
    bob = as_user("bob")
    assert find_run(bob, uid) is None and find_reconstructions(bob, uid) == []
    assert list(bob["processed/ptychography"]) == []
    admin = as_user("admin")
    assert {job, "of-a-file"} <= set(admin["processed/ptychography"])
    tags = admin["processed/ptychography"][job]["phase"].item["attributes"]["access_tags"]
    assert tags == ["proposal-1"], "each array is seen by the proposal's people, and not by its writer alone"
    assert runpy.run_path(str(PROFILE / "prepare.py"))["prepare"](admin) is None, "done again it changes nothing"
