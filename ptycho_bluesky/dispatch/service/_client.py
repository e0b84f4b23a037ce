"""The dispatcher service seen from a console: found, and spoken to over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ptycho_bluesky import __version__
from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._spec import JobSpec
from ptycho_bluesky.dispatch._status import JobStatus
from ptycho_bluesky.errors import DispatcherAwayError, DispatchError

__all__ = ["API", "LOCK", "NOTE", "DispatcherClient", "dispatcher"]

API = "1"
"""Version of the interface; both sides must speak the same."""

NOTE = "dispatcher.json"
"""File in ``home`` that tells where the service listens, and its key; readable by this user alone."""

LOCK = "dispatcher.lock"
"""File in ``home`` that the service keeps locked while it lives."""

ANSWER_S = 30.0
"""Longest time that the service may take to answer: cancelling a job can take 15 s."""

FIELDS = {field.name for field in fields(JobStatus)}


class DispatcherClient:
    """Jobs of a dispatcher service, as :mod:`ptycho_bluesky.dispatch` has those of this machine.

    Parameters
    ----------
    uri:
        ``http://host:port`` or ``https://host:port``.
    key:
        Of the service.
    """

    def __init__(self, uri: str, key: str) -> None:
        self.uri, self._key = uri, key

    def submit(self, spec: JobSpec) -> str:
        """Enter a job and return its id."""
        return str(self._post("/jobs", spec.model_dump_json().encode())["job_id"])

    def jobs(self, state: str | None = None, raw_uid: str | None = None) -> list[JobStatus]:
        """Return the jobs, newest first; of one `state`, or of one run (`raw_uid`), where these are given."""
        wanted = {k: v for k, v in (("state", state), ("raw_uid", raw_uid)) if v is not None}
        return [_status(one) for one in self._get("/jobs", **wanted)["jobs"]]

    def status(self, job_id: str) -> JobStatus:
        """Return the status of a job."""
        return _status(self._get(_path(job_id)))

    def spec(self, job_id: str) -> JobSpec:
        """Return the specification of a job."""
        return JobSpec.parse(json.dumps(self._get(_path(job_id, "spec"))))

    def history(self, job_id: str) -> list[dict[str, Any]]:
        """Return who did what with a job when."""
        return list(self._get(_path(job_id, "history"))["history"])

    def logs(self, job_id: str, lines: int = 50) -> str:
        """Return the last `lines` of a job's log."""
        return str(self._get(_path(job_id, "log"), lines=lines)["log"])

    def cancel(self, job_id: str, grace_s: float) -> JobStatus:
        """End a job and drop what it has: asked first; killed after `grace_s` seconds."""
        return _status(self._post(_path(job_id, "cancel"), grace_s=grace_s))

    def stop(self, job_id: str) -> JobStatus:
        """Ask a running job to end now and keep its result."""
        return _status(self._post(_path(job_id, "stop")))

    def retry(self, job_id: str) -> JobStatus:
        """Start a failed, lost or cancelled job again."""
        return _status(self._post(_path(job_id, "retry")))

    def about(self) -> dict[str, Any]:
        """Return what the service says of itself: version, host, jobs that wait and run."""
        return self._get("/about")

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._ask("GET", path, query)

    def _post(self, path: str, body: bytes = b"", **query: Any) -> dict[str, Any]:
        return self._ask("POST", path, query, body)

    def _ask(self, method: str, path: str, query: dict[str, Any], body: bytes | None = None) -> dict[str, Any]:
        parts = urlsplit(self.uri)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=ANSWER_S)
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Ptycho-Bluesky-Api": API,
            "User-Agent": f"ptycho-bluesky/{__version__}",
            "Content-Type": "application/json",
        }
        target = f"/v{API}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            said: Any = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DispatcherAwayError(
                f"the dispatcher at {self.uri} does not answer ({type(error).__name__}: {error}); see whether "
                "`ptycho-bluesky dispatcher` runs there and PTYCHO_BLUESKY_DISPATCHER_URI names it"
            ) from None
        finally:
            connection.close()
        if response.status != 200:
            raise DispatchError(f"the dispatcher at {self.uri} refuses: {said.get('error', response.reason)}")
        return dict(said)


def _path(job_id: str, what: str = "") -> str:
    return f"/jobs/{quote(job_id, safe='')}" + (f"/{what}" if what else "")


def _status(said: dict[str, Any]) -> JobStatus:
    return JobStatus(**{key: value for key, value in said.items() if key in FIELDS})


def _of_this_home(home: Path) -> DispatcherClient | None:
    """Return the service that lives in `home` on this machine."""
    if not (home / NOTE).exists():
        return None
    with file_lock(home / LOCK, shared=True) as nobody:
        if nobody:
            return None  # it was killed
    try:
        said = json.loads((home / NOTE).read_text())
        here = said["host"] == socket.gethostname()
        return DispatcherClient(said["uri"], said["key"]) if here else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def dispatcher() -> DispatcherClient | None:
    """Return the dispatcher service of the settings, or that of this ``home`` where it runs; None where there is none.

    Raises
    ------
    DispatchError
        When the settings name a service and no key for it.
    """
    uri, key = settings().dispatcher_uri, settings().dispatcher_key
    if uri is None:
        return _of_this_home(settings().home)
    if key is None:
        raise DispatchError(
            f"the dispatcher at {uri} takes jobs with its key alone; give it as PTYCHO_BLUESKY_DISPATCHER_KEY"
        )
    return DispatcherClient(uri, key.get_secret_value())
