"""``ptycho-bluesky jobs array``: the reconstructions of a campaign as one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ptycho_bluesky.cli._output import Json, emit
from ptycho_bluesky.dispatch import ArrayStatus, array_status, arrays, cancel_array, retry_array, submit_array

__all__ = ["app", "is_campaign", "submitted"]

app = typer.Typer(no_args_is_help=True, help="Job arrays, one for each campaign: list, show, retry, cancel.")

ArrayId = Annotated[str, typer.Argument(metavar="ARRAY", help="Id, campaign's uid, or the beginning of one.")]


def _told(array: ArrayStatus) -> dict[str, Any]:
    """Return the numbers of an array, without its members."""
    return {
        "array_id": array.array_id,
        "name": array.name,
        "axis": array.axis,
        "created": array.created,
        "expected": array.expected,
        "done": array.done,
        "failed": array.failed,
        "left": array.left,
        "seconds_left": array.seconds_left,
        "cancelled": array.cancelled,
        "states": array.states,
    }


def is_campaign(source: str) -> bool:
    """Whether `source`, which is no file, names a campaign in the catalogue."""
    if Path(source).exists() or Path(source).suffix:
        return False
    from ptycho_bluesky.dispatch._campaign_runs import is_campaign as known

    return known(source)


def submitted(campaign: str, **asked: Any) -> dict[str, Any]:
    """Submit the reconstructions of a campaign, and return what to show of their array."""
    return _told(array_status(submit_array(campaign, **asked)))


def _with_members(array: ArrayStatus) -> dict[str, Any]:
    members = []
    for member, job in zip(array.members, array.jobs, strict=True):
        news = {} if job is None else job.progress
        members.append(
            {
                "index": member.index,
                "value": member.value,
                "job_id": member.spec.job_id,
                "raw_uid": member.spec.raw_uid,
                "state": "missing" if job is None else job.state,
                "r_factor": news.get("r_factor"),
                "registered": None if job is None else job.registered,
                "reason": "" if job is None else job.reason,
            }
        )
    return {**_told(array), "members": members}


@app.command("list")
def list_arrays(json_output: Json = False) -> None:
    """List all arrays, newest first."""
    found = arrays()
    if json_output:
        emit({"arrays": [_told(array) for array in found]}, True)
        return
    table = Table("array", "campaign", "axis", "done", "failed", "left", "time left", "created", box=None)
    for array in found:
        left = "" if array.seconds_left is None or not array.left else f"{array.seconds_left:.0f} s"
        table.add_row(
            array.array_id[:8],
            array.name[:20],
            array.axis,
            f"{array.done} of {array.expected}",
            str(array.failed or ""),
            f"{array.left}" + (" (cancelled)" if array.cancelled else ""),
            left,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(array.created)),
        )
    Console().print(table if found else "no arrays yet")


@app.command()
def show(array: ArrayId, json_output: Json = False) -> None:
    """Show an array with all its members."""
    found = _with_members(array_status(array))
    if json_output:
        emit(found, True)
        return
    table = Table("index", "value", "job", "state", "R", "reason", box=None)
    for member in found.pop("members"):
        quality = "" if member["r_factor"] is None else f"{member['r_factor']:.4f}"
        place = ["" if member[key] is None else f"{member[key]:g}" for key in ("index", "value")]
        table.add_row(*place, member["job_id"][:8], member["state"], quality, member["reason"][:60])
    emit(found, False)
    Console().print(table)


@app.command()
def retry(array: ArrayId, json_output: Json = False) -> None:
    """Start again what failed, was lost or cancelled, and add what was measured since; what is done stays."""
    emit(_told(retry_array(array)), json_output)


@app.command()
def cancel(array: ArrayId, json_output: Json = False) -> None:
    """Cancel all jobs of an array that have not ended; results stay."""
    emit(_told(cancel_array(array)), json_output)
