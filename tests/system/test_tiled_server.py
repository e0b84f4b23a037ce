"""The beamline's own Tiled server, as profiles/tiled configures it, on real PostgreSQL and Redis, and their outages."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_model import compose_run
from services import Postgres, Redis, postgres, redis_server, tiled_of
from waiting import free_port, until

from ptycho_bluesky.catalog import connect, find_reconstructions, register_reconstruction, resend_backups, tiled_writer
from ptycho_bluesky.config import settings
from ptycho_bluesky.experiment import Reconstruction

CONFIGURATION = Path(__file__).parents[2] / "profiles" / "tiled" / "single-user.yml"
pytestmark = [pytest.mark.xdist_group("tiled-server"), pytest.mark.timeout(240)]


@dataclass
class Beamline:
    postgres: Postgres
    redis: Redis
    uri: str
    key: str


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beamline]:
    folder, port, key = tmp_path_factory.mktemp("tiled"), free_port(), uuid.uuid4().hex
    (folder / "files").mkdir()
    configuration = folder / "tiled.yml"
    configuration.write_text(CONFIGURATION.read_text().replace("port: 8000", f"port: {port}"))
    tiled = str(Path(sys.executable).with_name("tiled"))
    with postgres() as database, redis_server(folder / "redis") as redis:
        subprocess.run(
            [tiled, "catalog", "init", "--if-not-exists", database.uri("catalog")], check=True, capture_output=True
        )
        environment = {
            "CATALOG_URI": database.uri("catalog"),
            "STORAGE_URI": database.uri("storage"),
            "FILES_DIR": str(folder / "files"),
            "DATA_DIR": str(folder),
            "REDIS_URI": f"redis://{redis.address}/0",
            "TILED_SINGLE_USER_API_KEY": key,
        }
        with tiled_of(configuration, port, folder, 100, **environment) as uri:
            yield Beamline(database, redis, uri, key)


@pytest.fixture
def client(
    beamline: Beamline, tmp_path: Path, use_home: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    use_home(tmp_path / "home")
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", beamline.uri)
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", beamline.key)
    settings.cache_clear()
    made = connect(30)
    with made.context:
        yield made


def documents(count: int) -> list[tuple[str, dict[str, Any]]]:
    run = compose_run(metadata={"plan_name": "test"})
    found: list[tuple[str, dict[str, Any]]] = [("start", run.start_doc)]
    number = {"dtype": "number", "shape": [], "source": "sim", "dtype_numpy": "<f8"}
    primary = run.compose_descriptor(name="primary", data_keys={"stage_y": number})
    found.append(("descriptor", primary.descriptor_doc))
    for k in range(count):
        event = primary.compose_event(data={"stage_y": float(k)}, timestamps={"stage_y": 0.0})
        found.append(("event", dict(event)))
    found.append(("stop", run.compose_stop()))
    return found


def write(client: Any, run: list[tuple[str, dict[str, Any]]], **options: Any) -> str:
    writer = tiled_writer(client, **{"stop_wait_s": 30.0} | options)
    for name, document in run:
        writer(name, document)
    return str(run[0][1]["uid"])


def test_runs_and_results(client: Any, make_result: Callable[..., Reconstruction]) -> None:
    uid, result, job = write(client, documents(5)), make_result(), str(uuid.uuid4())
    assert client["raw"][uid]["primary"].read()["stage_y"].shape == (5,)
    assert next(name for name, _ in client["raw"][uid].documents()) == "start"
    register_reconstruction(client, result, job_id=job, raw_uid=uid)
    (found,) = find_reconstructions(client, uid)
    np.testing.assert_array_equal(found.object, result.object)


def test_postgresql_and_redis_stopped_in_a_scan_cost_nothing(client: Any, beamline: Beamline) -> None:
    run = documents(8)
    writer = tiled_writer(client, batch_size=1, stop_wait_s=1.0)
    for name, document in run[:4]:
        writer(name, document)
    beamline.postgres.stop()
    beamline.redis.stop()
    try:
        for name, document in run[4:]:
            writer(name, document)  # neither an exception nor a wait
    finally:
        beamline.postgres.start()
        beamline.redis.start()
    uid = str(run[0][1]["uid"])
    journal = settings().home / "tiled" / "backups" / f"{uid}.msgpack"

    def arrived() -> bool:
        return not journal.exists() or bool(resend_backups(client, uid)) or not journal.exists()

    until(arrived, 90, "the arrival of the run")
    table = client["raw"][uid]["primary"].read()
    assert list(table["stage_y"].values) == [float(k) for k in range(8)]
    assert client["raw"][uid].metadata["stop"]["exit_status"] == "success"
