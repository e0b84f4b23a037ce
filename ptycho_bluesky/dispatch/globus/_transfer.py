"""Files between two collections by Globus Transfer, each transfer submitted once."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import globus_sdk

from ptycho_bluesky.dispatch.globus._words import SPACE, services
from ptycho_bluesky.errors import FacilityError

if TYPE_CHECKING:
    from ptycho_bluesky._resources import GlobusResource

__all__ = ["Transfer"]

HOPELESS = ("PERMISSION_DENIED", "NO_SPACE", "QUOTA_EXCEEDED", "FILE_NOT_FOUND", "NOT_A_DIRECTORY", "INVALID_PATH")
"""States in which Globus Transfer goes on trying until its deadline, and nothing gets better."""


class Transfer:
    """Copies between this machine's home and the facility's.

    Parameters
    ----------
    app:
        From :func:`globus_app`.
    resource:
        Which names the collections.
    here, there:
        The homes, where the collections show them under the same name.
    """

    def __init__(self, app: globus_sdk.GlobusApp, resource: GlobusResource, here: str, there: str) -> None:
        self._client, self._resource = globus_sdk.TransferClient(app=app), resource
        self._here = resource.here_path or here
        self._there = resource.collection_path or there

    def items(self, names: Iterable[tuple[str, str]], *, out: bool) -> list[dict[str, str]]:
        """Return source and destination of files, as the collections show them.

        Parameters
        ----------
        names:
            (path below this home, path below the facility's).
        out:
            From here to there; False for the way back.
        """
        pairs = [(f"{self._here.rstrip('/')}/{a}", f"{self._there.rstrip('/')}/{b}") for a, b in names]
        return [
            {"source_path": a, "destination_path": b} if out else {"source_path": b, "destination_path": a}
            for a, b in pairs
        ]

    def ends(self, *, out: bool) -> tuple[str, str]:
        """Return the source's and the destination's collection."""
        ends = (str(self._resource.here_collection), str(self._resource.collection))
        return ends if out else (ends[1], ends[0])

    def submission(self) -> str:
        """Return an id under which one transfer can be submitted once, however often that is tried."""
        with services("asking Globus Transfer"):
            return str(self._client.get_submission_id()["value"])

    def submit(self, items: list[dict[str, str]], submission_id: str, label: str, *, out: bool) -> str:
        """Begin to copy files and return the task's id. What is there already, with equal contents, is not copied.

        Raises
        ------
        FacilityError
            When it is refused.
        """
        source, destination = self.ends(out=out)
        deadline = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self._resource.transfer_s)
        data = globus_sdk.TransferData(
            source,
            destination,
            label=label,
            submission_id=submission_id,
            sync_level="checksum",
            verify_checksum=True,
            encrypt_data=True,
            fail_on_quota_errors=True,
            deadline=deadline,
            notify_on_succeeded=False,
            notify_on_failed=False,
            notify_on_inactive=False,
        )
        for item in items:
            data.add_item(item["source_path"], item["destination_path"])
        with services(f"transferring {len(items)} files from {source} to {destination}"):
            return str(self._client.submit_transfer(data)["task_id"])

    def wait(self, task_id: str, given_up: Callable[[], bool], tell: Callable[[dict[str, Any]], None]) -> bool:
        """Wait until a transfer has succeeded; False where `given_up` became True first, and it was cancelled.

        Raises
        ------
        FacilityError
            When it failed, or has no hope.
        """
        pause_s, deadline = 0.2, time.monotonic() + self._resource.transfer_s + 60.0
        while not given_up():
            with services("asking Globus Transfer"):
                task = self._client.get_task(task_id)
            status, nice = str(task["status"]), str(task.get("nice_status") or "")
            if status == "SUCCEEDED":
                return True
            if status == "FAILED" or nice in HOPELESS or time.monotonic() > deadline:
                raise self._failure(task_id, task.data)
            tell({"transferred_bytes": task.get("bytes_transferred") or 0})
            until = time.monotonic() + pause_s
            while time.monotonic() < until and not given_up():
                time.sleep(0.1)
            pause_s = min(2 * pause_s, self._resource.poll_s)
        self._cancel(task_id)
        return False

    def _cancel(self, task_id: str) -> None:
        with services("cancelling a transfer"):
            self._client.cancel_task(task_id)

    def _failure(self, task_id: str, task: dict[str, Any]) -> FacilityError:
        """Return why a transfer failed, in the words of its last fault; one that goes on is ended."""
        fatal = task.get("fatal_error") or {}
        said = [
            str(task.get("nice_status") or ""),
            str(fatal.get("description") or task.get("nice_status_details") or ""),
        ]
        with services("asking Globus Transfer"):
            if task["status"] == "ACTIVE":
                self._client.cancel_task(task_id)
            events = [e for e in self._client.task_event_list(task_id, limit=20) if e.get("is_error")]
        said += [str(events[0].get("details") or events[0].get("description"))] if events else []
        text = " ".join("; ".join(dict.fromkeys(filter(None, said))).split())[:400] or "no reason was given"
        if any(word in text for word in SPACE):
            return FacilityError(
                f"the transfer {task_id} failed: no space there ({text}); free some, then retry", "disk"
            )
        if "PERMISSION" in text.upper():
            return FacilityError(
                f"the transfer {task_id} failed: no permission ({text}); grant it on the collection, then retry", "user"
            )
        return FacilityError(f"the transfer {task_id} failed: {text}; retry the job, only what lacks is copied")
