"""A job's way by the deployed flow: one run of it, found again by its id."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import globus_sdk

from ptycho_bluesky import __version__
from ptycho_bluesky.dispatch.globus._words import LOGIN, checked_answer, of_exception, services
from ptycho_bluesky.errors import FacilityError

if TYPE_CHECKING:
    from ptycho_bluesky.dispatch.globus._flow import Flow

__all__ = ["DeployedFlow"]


class DeployedFlow:
    """A run of the deployed flow for a job.

    Parameters
    ----------
    flow:
        The job's way, packed.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow, self._steps, self._id = flow, flow.steps, str(flow.resource.flow)
        self._runs = globus_sdk.FlowsClient(app=flow.app)

    def body(self) -> dict[str, Any]:
        """Return the input of the run."""
        transfer, flow = self._flow.transfer(), self._flow
        legs = {}
        for leg, out in (("out", True), ("back", False)):
            source, destination = transfer.ends(out=out)
            items = transfer.items(flow.names(out=out), out=out)
            label = f"ptycho-bluesky {flow.job.job_id[:8]} {leg}"
            legs[leg] = {
                "needed": bool(items),
                "source": source,
                "destination": destination,
                "label": label,
                "items": items,
            }
        compute = {
            "endpoint_id": str(flow.resource.endpoint),
            "function_id": flow.compute.function,
            "user_endpoint_config": flow.resource.endpoint_config,
            "args": [{"version": __version__, **flow.request()}],
        }
        return {**legs, "compute": compute}

    def run(self) -> dict[str, Any] | None:
        """Run the flow to its end and return the facility's answer; None where the job was given up.

        Raises
        ------
        FacilityError
            When the run fails, in the words of the step that failed.
        """
        if "run_id" not in self._steps.of("flow"):
            client = globus_sdk.SpecificFlowClient(self._id, app=self._flow.app)
            with services("starting the flow"):
                run = client.run_flow(self.body(), label=f"ptycho-bluesky {self._flow.job.job_id[:8]}"[:64])
            self._steps.note("flow", run_id=str(run["run_id"]))
        run_id = str(self._steps.of("flow")["run_id"])
        while not self._flow.given_up():
            with services("asking Globus Flows"):
                run = self._runs.get_run(run_id)
            if run["status"] == "SUCCEEDED":
                return self._answer(run["details"])
            if run["status"] in ("FAILED", "ENDED"):
                self._steps.forget("flow")
                raise self._failure(run_id, run["details"])
            if run["status"] == "INACTIVE":
                raise FacilityError(
                    f"the flow waits for a consent; run `{LOGIN} --again`, then retry the job",
                    "user",
                )
            state = (run["details"] or {}).get("details", {}).get("state_name", "")
            self._flow.tell({"stage": "flow", "state_there": state})
            until = time.monotonic() + self._flow.resource.poll_s
            while time.monotonic() < until and not self._flow.given_up():
                time.sleep(0.1)
        if self._flow.job.cancel_file.exists():
            self.recall()
        return None

    def recall(self) -> None:
        """Cancel the run of the flow, and what it has begun at the facility; nothing where there is none."""
        run_id = self._steps.of("flow").get("run_id")
        if run_id is None or self._steps.done("flow"):
            return
        self._steps.forget("flow")
        with services("cancelling the flow"):
            self._runs.cancel_run(run_id)
        job_id = self._flow.job.job_id
        self._flow.compute.submit({"do": "ask", "job_id": job_id, "what": "cancel"}, watching=True)
        self._steps.tell("flow: cancelled, and the facility was asked to cancel")

    def _answer(self, details: dict[str, Any]) -> dict[str, Any]:
        return checked_answer(details["output"]["compute_done"]["details"]["result"][0])

    def _failure(self, run_id: str, details: dict[str, Any] | None) -> FacilityError:
        with services("asking Globus Flows"):
            entries = [e for e in self._runs.get_run_logs(run_id, limit=100) if "Fail" in str(e.get("code"))]
        where = str(entries[0].get("details", {}).get("state_name", "")) if entries else ""
        said = str(entries[0].get("details", {}).get("output") or entries[0].get("description")) if entries else ""
        said = " ".join((said or str((details or {}).get("description") or "no reason was given")).split())
        if "Traceback" in said or "No module named" in said:
            return of_exception(said)
        return FacilityError(f"the flow failed at {where or 'a step'}: {said[:400]}; retry the job")
