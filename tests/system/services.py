"""Real services of a beamline, private to a test: on free ports of loopback, in a folder of its own, ended after it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from waiting import free_port, until


def need(program: str, package: str) -> str:
    """Return where a program is, or skip the test: CI installs it, and makes this skip a failure."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        missing = f"{program} is not installed (apt-get install {package})"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return found


@contextlib.contextmanager
def running(
    command: list[str], log: Path, cwd: Path | None = None, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of the block; its output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd, env={**os.environ, **environment}
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace")[-3000:])  # why it did not do as expected
        raise
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


class Redis:
    """A Redis server; :meth:`stop` and :meth:`start` are an outage and its end.

    Its password is in its file alone, not in the list of processes.
    """

    def __init__(self, folder: Path) -> None:
        self._program, self.port, self.password = (
            need("redis-server", "redis-server"),
            free_port(),
            os.urandom(12).hex(),
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._open = folder / "redis.conf", contextlib.ExitStack()
        self._file.touch(0o600)
        self._file.write_text(
            f'bind 127.0.0.1\nport {self.port}\nsave ""\nappendonly no\ndir {folder}\nrequirepass {self.password}\n'
        )
        self.start()

    @property
    def address(self) -> str:
        return f":{self.password}@127.0.0.1:{self.port}"

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def start(self) -> None:
        self._open.enter_context(running([self._program, str(self._file)], self._file.with_suffix(".log")))
        until(self._answers, 10, "an answer of Redis")

    def stop(self) -> None:
        self._open.close()


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[Redis]:
    """Give a Redis server."""
    server = Redis(folder)
    try:
        yield server
    finally:
        server.stop()


class Postgres:
    """A PostgreSQL server with three databases; :meth:`stop` and :meth:`start` are an outage and its end."""

    def __init__(self, folder: Path) -> None:
        need("psql", "postgresql")
        self._bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self._folder, self.port = folder, free_port()
        self._password = os.urandom(12).hex()
        root = os.geteuid() == 0  # as whom initdb refuses to work
        self._become = ["runuser", "-u", "postgres", "--"] if root else []
        owner = ["-o", "postgres"] if root else []
        subprocess.run(["install", "-d", *owner, "-m", "755", str(folder)], check=True)
        subprocess.run(["install", *owner, "-m", "600", "/dev/null", str(folder / "password")], check=True)
        (folder / "password").write_text(self._password)
        self._as_postgres(
            "initdb", "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={folder}/password", "-E", "UTF8", "--no-sync"
        )
        (folder / "data" / "postgresql.auto.conf").write_text(
            f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\nfsync = off\n"
        )
        self.start()
        for name in ("catalog", "storage", "auth"):
            command = ["psql", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
            environment = {**os.environ, "PGPASSWORD": self._password}
            subprocess.run([*command, "-c", f"create database tiled_{name}"], env=environment, check=True)

    def _as_postgres(self, program: str, *arguments: str) -> None:
        command = [*self._become, str(self._bin / program), "-D", str(self._folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def uri(self, name: str) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/tiled_{name}"

    def start(self) -> None:
        self._as_postgres("pg_ctl", "-l", str(self._folder / "data" / "log"), "-w", "-t", "30", "start")

    def stop(self) -> None:
        self._as_postgres("pg_ctl", "-m", "immediate", "-w", "stop")


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Give a PostgreSQL server, in a folder that its user may enter (a test's own folder is closed to it)."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder) / "server")
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test may have stopped it
                server.stop()


@contextlib.contextmanager
def tiled_of(configuration: Path, port: int, folder: Path, seconds: float, **environment: str) -> Iterator[str]:
    """Run ``tiled serve config`` for the length of the block; return its address once it answers."""
    uri, tiled = f"http://127.0.0.1:{port}", str(Path(sys.executable).with_name("tiled"))

    def ready() -> bool:
        assert server.poll() is None, "the server has ended"
        try:
            return httpx.get(f"{uri}/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    with running([tiled, "serve", "config", str(configuration)], folder / "tiled.log", **environment) as server:
        until(ready, seconds, "an answer of Tiled")
        yield uri
