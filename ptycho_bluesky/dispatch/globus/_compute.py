"""Requests to an endpoint of Globus Compute: as JSON, by reference, not more than are allowed."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import globus_sdk
from globus_compute_sdk.sdk.batch import Batch, create_user_runtime
from globus_compute_sdk.sdk.client import FunctionRegistrationData
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

from ptycho_bluesky import __version__
from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.dispatch._folder import atomic_write
from ptycho_bluesky.dispatch.globus._function import ptycho_bluesky_facility
from ptycho_bluesky.dispatch.globus._login import globus_folder
from ptycho_bluesky.dispatch.globus._pace import Pace
from ptycho_bluesky.dispatch.globus._words import checked_answer, of_exception, services
from ptycho_bluesky.errors import FacilityError

if TYPE_CHECKING:
    from ptycho_bluesky._resources import GlobusResource

__all__ = ["Compute", "registered_function"]

LIMIT = 10_000_000
"""Largest submission that Globus Compute takes, bytes."""

RESULTS = ["globus_compute_sdk.serialize.JSONData"]
"""How answers are written at the endpoint: what comes back is parsed, never unpickled."""


def _serializer() -> ComputeSerializer:
    return ComputeSerializer(
        PureSourceTextInspect(),
        JSONData(),
        allowed_deserializer_types=[PureSourceTextInspect, JSONData],
    )


def registered_function(client: globus_sdk.ComputeClientV3) -> str:
    """Return the UUID of this package's function, registered once for each text of it and each home."""
    text = inspect.getsource(ptycho_bluesky_facility)
    digest, path = hashlib.sha256(text.encode()).hexdigest(), globus_folder() / "functions.json"
    with file_lock(path.with_suffix(".lock"), timeout_s=60.0):
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            known = {}
        if digest not in known:
            data = FunctionRegistrationData(function=ptycho_bluesky_facility, serializer=_serializer())
            with services("registering the function"):
                known[digest] = str(client.register_function(data.to_dict())["function_uuid"])
            atomic_write(path, json.dumps(known))
    return str(known[digest])


class Compute:
    """Requests to the endpoint of a resource.

    Parameters
    ----------
    app:
        From :func:`globus_app`.
    resource:
        Which names the endpoint.
    """

    def __init__(self, app: globus_sdk.GlobusApp, resource: GlobusResource) -> None:
        self._v2, self._v3 = globus_sdk.ComputeClientV2(app=app), globus_sdk.ComputeClientV3(app=app)
        self._resource, self._serializer = resource, _serializer()
        self._pace = Pace(globus_folder() / "compute.pace")

    @property
    def function(self) -> str:
        """UUID of the function that is called."""
        return str(self._resource.function or registered_function(self._v3))

    def check_online(self) -> None:
        """Refuse an endpoint that is not online: what is sent to it would wait there for up to two weeks.

        Raises
        ------
        FacilityError
            When one is not, or is not known.
        """
        for endpoint in dict.fromkeys((self._resource.endpoint, self._resource.watching)):
            self._pace.take()
            with services(f"asking for endpoint {endpoint}"):
                found = str(self._v2.get_endpoint_status(endpoint)["status"])
            if found != "online":
                raise FacilityError(f"endpoint {endpoint} is {found}; start it there, then retry the job")

    def submit(self, request: dict[str, Any], *, watching: bool = False) -> dict[str, str]:
        """Send a request and return ``task_id`` and ``task_group_id``, by which its answer can be had for two weeks.

        Parameters
        ----------
        request:
            JSON; ``do`` says what.
        watching:
            Through the endpoint for looks and cancellations.

        Raises
        ------
        FacilityError
            When it is too large or refused.
        """
        endpoint = self._resource.watching if watching else self._resource.endpoint
        what, function = f"submitting to endpoint {endpoint}", self.function
        own = self._resource.endpoint_config if endpoint == self._resource.endpoint else {}
        batch = Batch(
            None,
            user_endpoint_config=own or None,
            serializer=self._serializer,
            user_runtime=create_user_runtime(),
            result_serializers=RESULTS,
        )
        batch.add(function, ({"version": __version__, **request},))
        data = batch.prepare()
        if (size := len(json.dumps(data))) > LIMIT:
            raise FacilityError(f"{what}: {size} bytes; at most {LIMIT}: name files, do not embed data", "user")
        self._pace.take()
        with services(what):
            reply = self._v3.submit(endpoint, data)
        return {"task_id": str(reply["tasks"][function][0]), "task_group_id": str(reply["task_group_id"])}

    def answers(self, task_ids: Iterable[str]) -> dict[str, dict[str, Any] | FacilityError | None]:
        """Return the answers to some requests in one look; None where there is none yet.

        An error where one failed at the endpoint, was refused there, or is not known any more.

        Raises
        ------
        FacilityError
            When Globus Compute does not tell.
        """
        wanted = list(task_ids)
        self._pace.take()
        with services("asking for results"):
            found = self._v2.get_task_batch(wanted)["results"]
        settled: dict[str, dict[str, Any] | FacilityError | None] = {}
        for task_id in wanted:
            try:
                settled[task_id] = self._answer(task_id, found.get(task_id))
            except FacilityError as error:
                settled[task_id] = error
        return settled

    def _answer(self, task_id: str, task: dict[str, Any] | None) -> dict[str, Any] | None:
        if not task:
            raise FacilityError(
                f"Globus Compute knows no task {task_id} (results are kept for two weeks); retry the job"
            )
        if str(task.get("status", "")).lower() not in ("success", "failed"):
            return None
        if task.get("exception"):
            raise of_exception(str(task["exception"]))
        if "result" not in task:
            raise FacilityError(f"task {task_id} was lost: {task.get('reason', 'no reason was given')}; retry the job")
        return checked_answer(self._serializer.deserialize(task["result"]))

    def ask(
        self, request: dict[str, Any], timeout_s: float, given_up: Callable[[], bool] = bool, *, watching: bool = True
    ) -> dict[str, Any] | None:
        """Send a small request and wait for its answer; None where `given_up` became True first.

        Raises
        ------
        FacilityError
            As the above, or when there is no answer in time.
        """
        task_id, deadline = self.submit(request, watching=watching)["task_id"], time.monotonic() + timeout_s
        pause_s = 0.1
        while not given_up():
            answer = self.answers([task_id])[task_id]
            if isinstance(answer, FacilityError):
                raise answer
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                raise FacilityError(
                    f"the endpoint has not answered within {timeout_s:.0f} s: its workers wait for a node, or all are "
                    "busy; name a control_endpoint with a worker that is always free, or retry the job"
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 3.0)
        return None
