"""The same way as a definition for Globus Flows: there the cloud moves the steps on, also while this side is off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import globus_sdk

from ptycho_bluesky.dispatch.globus._words import services

if TYPE_CHECKING:
    from globus_sdk import GlobusApp

__all__ = ["TITLE", "deploy", "flow_definition", "input_schema"]

TITLE = "Ptychography: there and back"

TRANSFER_URL, COMPUTE_URL = "https://transfer.actions.globus.org/transfer", "https://compute.actions.globus.org/v3"

MONTH_S = 30 * 86400


def _transfer(which: str, following: dict[str, Any]) -> dict[str, Any]:
    return {
        "Type": "Action",
        "ActionUrl": TRANSFER_URL,
        "Parameters": {
            "source_endpoint.$": f"$.{which}.source",
            "destination_endpoint.$": f"$.{which}.destination",
            "DATA.$": f"$.{which}.items",
            "label.$": f"$.{which}.label",
            "sync_level": 3,
            "verify_checksum": True,
            "encrypt_data": True,
            "fail_on_quota_errors": True,
            "notify_on_succeeded": False,
            "notify_on_failed": False,
            "notify_on_inactive": False,
        },
        "ResultPath": f"$.{which}_done",
        "WaitTime": 7 * 86400,
        **following,
    }


def flow_definition() -> dict[str, Any]:
    """Return the definition: transfer out where something must travel, compute, transfer back what was made.

    A job that is not done at the facility is no failure of the flow: its own words are in the output of ``Compute``.
    """
    return {
        "Comment": TITLE,
        "StartAt": "Travels",
        "States": {
            "Travels": {
                "Type": "Choice",
                "Choices": [{"Variable": "$.out.needed", "BooleanEquals": True, "Next": "TransferOut"}],
                "Default": "Compute",
            },
            "TransferOut": _transfer("out", {"Next": "Compute"}),
            "Compute": {
                "Type": "Action",
                "ActionUrl": COMPUTE_URL,
                "Parameters": {
                    "endpoint_id.$": "$.compute.endpoint_id",
                    "user_endpoint_config.$": "$.compute.user_endpoint_config",
                    "tasks": [{"function_id.$": "$.compute.function_id", "args.$": "$.compute.args"}],
                },
                "ResultPath": "$.compute_done",
                "WaitTime": MONTH_S,
                "Next": "Made",
            },
            "Made": {
                "Type": "Choice",
                "Choices": [
                    {
                        "Variable": "$.compute_done.details.result[0].state",
                        "StringEquals": "done",
                        "Next": "TransferBack",
                    }
                ],
                "Default": "NothingMade",
            },
            "NothingMade": {"Type": "Pass", "End": True},
            "TransferBack": _transfer("back", {"End": True}),
        },
    }


def input_schema() -> dict[str, Any]:
    """Return what a run of the flow must be given."""
    text = {"type": "string"}
    leg = {
        "type": "object",
        "properties": {
            "needed": {"type": "boolean"},
            "source": text,
            "destination": text,
            "label": text,
            "items": {"type": "array", "items": {"type": "object"}},
        },
        "required": ["needed", "source", "destination", "label", "items"],
        "additionalProperties": False,
    }
    compute = {
        "type": "object",
        "properties": {
            "endpoint_id": text,
            "function_id": text,
            "user_endpoint_config": {"type": "object"},
            "args": {"type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": 1},
        },
        "required": ["endpoint_id", "function_id", "user_endpoint_config", "args"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"out": leg, "compute": compute, "back": leg},
        "required": ["out", "compute", "back"],
        "additionalProperties": False,
    }


def deploy(app: GlobusApp, flow_id: str | None = None) -> str:
    """Deploy the flow, or bring a deployed one up to date, and return its UUID.

    Raises
    ------
    FacilityError
        When Globus Flows refuses it.
    """
    client = globus_sdk.FlowsClient(app=app)
    with services("deploying the flow"):
        if flow_id is None:
            return str(client.create_flow(TITLE, flow_definition(), input_schema())["id"])
        client.update_flow(flow_id, title=TITLE, definition=flow_definition(), input_schema=input_schema())
        return flow_id
