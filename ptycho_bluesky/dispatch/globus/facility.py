"""The facility's side: what its workers answer. Requests are data; each is one of five, and all is checked here."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptycho_bluesky import __version__
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._allowed import check_paths
from ptycho_bluesky.dispatch._entry import PROBE, RECORD
from ptycho_bluesky.dispatch._folder import RESULTS, JobFolder
from ptycho_bluesky.dispatch._launcher import detached
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._spec import FileSource, JobSpec
from ptycho_bluesky.dispatch._status import FINAL
from ptycho_bluesky.errors import DispatchError, PtychoError

__all__ = ["answer", "fingerprint", "made_by"]

TAIL = 4000
"""Characters of the log that travel in an answer."""

TILED_S = 10.0
"""Longest time to wait for an answer of Tiled."""

EDGE = 1 << 16
"""Bytes at each end of a file that its fingerprint covers."""


def fingerprint(path: Path) -> str:
    """Return what tells whether two paths show the same file: its size, and a hash of both of its ends."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(EDGE))
        file.seek(max(0, size - EDGE))
        digest.update(file.read(EDGE))
    return f"{size}-{digest.hexdigest()}"


def made_by(recipe: str) -> tuple[str, ...]:
    """Return the files that a recipe makes."""
    return (RESULTS.get(recipe, "result.h5"), *((RECORD, PROBE) if recipe == "train" else ()))


def _whole_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse(text: str) -> DispatchError:
    return DispatchError(text)


def _job(request: dict[str, Any]) -> JobFolder:
    try:
        job_id = str(uuid.UUID(str(request.get("job_id"))))
    except ValueError:
        raise _refuse(f"job_id is {str(request.get('job_id'))[:60]!r}; it must be a UUID") from None
    return JobFolder(Ledger().folder / job_id)


def _same_version(request: dict[str, Any]) -> None:
    theirs, ours = str(request.get("version")), __version__
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise _refuse(
            f"ptycho-bluesky is {ours} at the facility ({socket.gethostname()}, {sys.prefix}) and {theirs} where the "
            "job comes from; install the same version at both"
        )


def _check(request: dict[str, Any]) -> dict[str, Any]:
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    return {
        "version": __version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "home": str(home),
        "free_bytes": shutil.disk_usage(home).free,
        "cores": os.cpu_count(),
    }


def _see(request: dict[str, Any]) -> dict[str, Any]:
    """Tell what can be read from here: files that are the same ones, a run in the Tiled server of both."""
    same = []
    for path, known in dict(request.get("files", {})).items():
        try:
            _check_allowed(JobSpec(source=FileSource(path=path)))
            same.append(fingerprint(Path(path)) == known)
        except (OSError, DispatchError):
            same.append(False)
    seen: dict[str, Any] = {"home": str(settings().home), "files": same, "run": False}
    uid = request.get("run")
    if uid and settings().tiled_uri is not None:  # an embedded server of the facility's own knows no runs
        import httpx

        from ptycho_bluesky.catalog import connect, find_run

        try:
            client = connect(timeout=TILED_S)
            with client.context:
                seen["run"] = find_run(client, str(uid)) is not None
        except (PtychoError, httpx.HTTPError, OSError) as error:  # not reachable from here
            seen["why_not"] = " ".join(str(error).split())[:200]
    return seen


def _check_allowed(spec: JobSpec) -> None:
    """Refuse files that this side's settings do not allow jobs to read (``[resources.local] paths``)."""
    check_paths(spec.model_copy(update={"place": "local"}))


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Run a job in a process of its own and return how it ended; one that runs already is waited for."""
    job, spec = _job(request), JobSpec.model_validate(request.get("spec"))
    _check_allowed(spec)
    job.path.mkdir(parents=True, exist_ok=True)
    if not job.create(spec):
        _again(job, spec)
    if job.status().state not in FINAL:
        _work(job, int(request.get("slots", 1)))
    status = job.status()
    if status.state not in FINAL:
        status = Ledger().record(job, "lost", reason="the runner at the facility ended without a word")
    made = made_by(spec.recipe) if status.state == "done" else ()
    files = [job.path / name for name in made if (job.path / name).exists()]
    return {
        "state": status.state,
        "kind": status.kind,
        "reason": status.reason,
        "progress": status.progress,
        "stopped": status.stopped,
        "history": job.history(),
        "files": {f.name: {"bytes": f.stat().st_size, "sha256": _whole_hash(f)} for f in files},
        "log": job.log_tail(60)[-TAIL:],
        "facility": {"host": socket.gethostname(), "version": __version__, "python": platform.python_version()},
    }


def _again(job: JobFolder, spec: JobSpec) -> None:
    """Prepare a job that has failed before; what it has finished is not done twice."""
    status = job.status()
    if status.state in ("failed", "lost", "cancelled"):
        for flag in (job.cancel_file, job.stop_file, job.overdue_file):
            flag.unlink(missing_ok=True)
        job.spec_file.write_text(spec.model_dump_json(indent=1))
        job.record("queued", attempt=status.attempt + 1)


def _work(job: JobFolder, slots: int) -> None:
    process = detached("ptycho_bluesky.dispatch.globus.away", job, slots)
    job.launched({"kind": "local", "place": "local", "pid": process.pid})
    try:
        code = process.wait()
    except BaseException:  # the endpoint ends this worker: no process of it stays behind
        process.kill()
        process.wait()
        raise
    while code == 3 and job.status().state not in FINAL and job.heartbeat_age_s() < settings().lost_after_s:
        time.sleep(0.5)  # the same request came twice: the other one's runner is at it


def _look(request: dict[str, Any]) -> dict[str, Any]:
    job = _job(request)
    if not job.status_file.exists():
        return {"state": "queued", "progress": {}, "age_s": None}
    status = job.status()
    return {
        "state": status.state,
        "progress": status.progress,
        "age_s": round(job.heartbeat_age_s(), 1) if job.heartbeat_file.exists() else None,
    }


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """Leave word that a job is to stop or to be cancelled; it may be about to begin."""
    job, what = _job(request), request.get("what")
    if what not in ("stop", "cancel"):
        raise _refuse(f"what is {what!r}; allowed are stop, cancel")
    job.path.mkdir(parents=True, exist_ok=True)
    (job.stop_file if what == "stop" else job.cancel_file).touch()
    return _look(request)


ANSWERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "check": _check,
    "see": _see,
    "run": _run,
    "look": _look,
    "ask": _ask,
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request; one that is refused is answered by ``refused``, in words.

    Parameters
    ----------
    request:
        ``do``: "check", "see", "run", "look" or "ask"; ``version`` of who asks; ``job_id``, ``spec``, ...

    Returns
    -------
    dict
        JSON.
    """
    try:
        do = ANSWERS.get(str(request.get("do")))
        if do is None:
            raise _refuse(f"do is {request.get('do')!r}; allowed are {', '.join(ANSWERS)}")
        if do is not _check:
            _same_version(request)
        return do(request)
    except (PtychoError, ValueError) as error:
        return {"refused": " ".join(str(error).split())[:1000], "kind": "user"}
    except OSError as error:
        return {"refused": f"{type(error).__name__} at the facility: {error}", "kind": "disk"}
