"""The folder of a job: the truth about it, whatever happens to the ledger, the console or the machine."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import psutil

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky._who import whoami
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._launcher import Ending, launcher_of
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._status import TRANSITIONS, JobState, JobStatus
from ptycho_bluesky.errors import DispatchError

__all__ = ["JobFolder", "atomic_write"]

RESULTS = {"reconstruct": "result.h5", "train": "model.safetensors", "check": "check.json"}
"""Names of the files that the recipes make."""

RESERVE = 32 * 1024
"""Bytes kept aside in each folder, so that the news of a full disk can still be written."""


def atomic_write(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a file such that it is seen whole or not at all; with `sync` it survives a power cut as well."""
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("w") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _author() -> dict[str, Any]:
    return {"by": whoami(), "pid": os.getpid()}


class JobFolder:
    """Files of one job: ``spec.json``, ``status.jsonl``, ``heartbeat``, ``partial.npz``, ``log.txt`` and the result.

    The result is ``result.h5`` of a reconstruction, ``model.safetensors`` of a training.

    Parameters
    ----------
    path:
        The folder; its name is the job's id.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job_id = path.name
        self.spec_file = path / "spec.json"
        self.status_file = path / "status.jsonl"
        self.heartbeat_file = path / "heartbeat"
        self.runner_file = path / "runner.json"
        self.partial_file = path / "partial.npz"
        self.log_file = path / "log.txt"
        self.cancel_file = path / "CANCEL"
        self.stop_file = path / "STOP"
        self.overdue_file = path / "OVERDUE"

    @property
    def result_file(self) -> Path:
        """The job's result: what its recipe makes."""
        return self.path / RESULTS.get(self.spec().recipe, "result.h5")

    def create(self, spec: JobSpec) -> bool:
        """Write spec and first state; False where the job exists already."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self.status_file.exists():
                return False
            atomic_write(self.spec_file, spec.model_dump_json(indent=1))
            self._append({"state": "queued", "attempt": 1, **_author()})
        return True

    def spec(self) -> JobSpec:
        """Return the specification.

        Raises
        ------
        DispatchError
            When it is missing or cannot be understood.
        """
        try:
            return JobSpec.parse(self.spec_file.read_bytes(), str(self.spec_file))
        except OSError as error:
            raise DispatchError(f"{self.spec_file} cannot be read: {error}; submit the job again") from None

    def move(self, spec: JobSpec) -> None:
        """Write the specification of the same job at another place."""
        atomic_write(self.spec_file, spec.model_dump_json(indent=1))

    def _locked(self) -> Any:
        return file_lock(self.path / "status.lock", timeout_s=10.0)

    def _append(self, entry: dict[str, Any]) -> None:
        data = (json.dumps({"t": time.time(), **entry}) + "\n").encode()
        if self.status_file.exists() and not self.status_file.read_bytes().endswith(b"\n"):
            data = b"\n" + data  # the line before was torn by a crash or a full disk
        try:
            self._write(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.drop_reserve()
            self._write(b"\n" + data)

    def _write(self, data: bytes) -> None:
        descriptor = os.open(self.status_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.status_file))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _entries(self) -> list[dict[str, Any]]:
        entries = []
        try:
            lines = self.status_file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # torn
            if isinstance(entry, dict) and entry.get("state") in get_args(JobState):
                entries.append(entry)
        return entries

    def status(self) -> JobStatus:
        """Return the job's status as last written.

        Raises
        ------
        DispatchError
            When the folder holds no job.
        """
        entries = self._entries()
        if not entries:
            raise DispatchError(f"{self.path} holds no job; `jobs list` shows those that exist")
        attempt = max(int(e.get("attempt", 1)) for e in entries)
        news: dict[str, Any] = {}
        for entry in entries:
            if entry["state"] == "queued":
                news = {}  # what an earlier attempt said does not count
            news |= {k: v for k, v in entry.items() if k in JobStatus.__dataclass_fields__}
        news |= {"attempt": attempt, "state": entries[-1]["state"]}
        return JobStatus(self.job_id, created=entries[0]["t"], updated=entries[-1]["t"], **news)

    def history(self) -> list[dict[str, Any]]:
        """Return who did what with this job when: its changes of state and what was asked of it, oldest first.

        Each has ``t`` (seconds since 1970), ``state``, ``by`` (user@host), ``pid``, and ``attempt``, ``kind``,
        ``reason``, ``asked``, ``step`` (of a way through several services) where there is something to say.
        """
        told = ("t", "state", "by", "pid", "attempt", "asked", "step", "kind", "reason")
        events, before = [], ""
        for entry in self._entries():
            if entry["state"] != before or "asked" in entry or "step" in entry:
                events.append({key: entry[key] for key in told if entry.get(key) not in (None, "")})
            before = entry["state"]
        return events

    def record(self, state: JobState, **news: Any) -> JobStatus:
        """Append a state, or news of the present one, and return the new status.

        Raises
        ------
        DispatchError
            When `state` may not follow the present one.
        """
        with self._locked() as ours:
            if not ours:
                raise DispatchError(f"{self.path / 'status.lock'} is held by another process for over 10 s; end it")
            before = self.status().state
            if state != before and state not in TRANSITIONS[before]:
                allowed = ", ".join(TRANSITIONS[before]) or "nothing"
                raise DispatchError(f"job {self.job_id} is {before}; it cannot become {state}, allowed: {allowed}")
            told = state != before or "asked" in news or "step" in news
            self._append({"state": state, **news, **(_author() if told else {})})
            return self.status()

    def keep_reserve(self) -> None:
        """Keep some space aside, so that the news of a full disk can still be written."""
        (self.path / "reserve").write_bytes(b"\0" * RESERVE)

    def drop_reserve(self) -> None:
        """Give that space back."""
        (self.path / "reserve").unlink(missing_ok=True)

    def beat(self) -> None:
        """Leave a sign of life."""
        atomic_write(self.heartbeat_file, json.dumps({"t": time.time(), "pid": os.getpid()}), sync=False)

    def launched(self, runner: Mapping[str, Any]) -> None:
        """Note what works on this job: what its launcher returned."""
        noted = {"host": socket.gethostname(), "t": time.time(), **runner}
        atomic_write(self.runner_file, json.dumps(noted), sync=False)

    def runner(self) -> dict[str, Any] | None:
        """Return what works on this job, as noted; None before its launch."""
        try:
            noted = json.loads(self.runner_file.read_text())
        except (OSError, ValueError):
            return None
        return noted if isinstance(noted, dict) else None

    def runner_pid(self) -> int | None:
        """Return the runner's process on this machine while it lives; safe against a pid that was given anew."""
        for note in (self.runner_file, self.heartbeat_file):  # a console that died at the launch wrote no runner.json
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
                pid = int(json.loads(note.read_text())["pid"])
                if psutil.Process(pid).cwd() == os.path.realpath(self.path):  # where runners, and they alone, work
                    return pid
        return None

    def alive(self) -> bool:
        """Whether something works on this job or waits to do so, as far as can be told from here."""
        runner = self.runner()
        if runner is None:  # it waits for its launch
            return self.status().state == "queued" or self.heartbeat_age_s() < settings().lost_after_s
        try:
            told = launcher_of(runner).alive(self, runner)
        except DispatchError:  # its place has left the settings
            told = None
        return self.heartbeat_age_s() < settings().lost_after_s if told is None else told

    def ending(self) -> Ending | None:
        """Return how the place of a runner that is not alive says that it ended; None where it does not know."""
        runner = self.runner()
        with contextlib.suppress(DispatchError):
            return None if runner is None else launcher_of(runner).ending(self, runner)
        return None

    def heartbeat_age_s(self) -> float:
        """Seconds since the last sign of life, or since the launch where there was none yet."""
        for path in (self.heartbeat_file, self.runner_file):
            try:
                return time.time() - path.stat().st_mtime
            except OSError:
                continue
        return float("inf")

    def log_tail(self, lines: int = 50) -> str:
        """Return the end of the log."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""
