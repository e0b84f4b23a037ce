"""The runs of a campaign in the catalogue, as members of a job array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ptycho_bluesky.catalog import RAW, CampaignRuns, connect
from ptycho_bluesky.dispatch._array_file import ArrayMember
from ptycho_bluesky.dispatch._spec import JobSpec, TiledSource
from ptycho_bluesky.errors import DispatchError, report

__all__ = ["is_campaign", "members_of"]


def _runs(client: Any, campaign: str) -> list[Mapping[str, Any]]:
    found = client[RAW].search(CampaignRuns(campaign))
    return [run.metadata for run in found.values()]


def is_campaign(uid: str) -> bool:
    """Whether there are runs of a campaign with this uid in the catalogue.

    Raises
    ------
    CatalogError
        When it cannot be reached.
    """
    client = connect()
    with client.context:
        return bool(_runs(client, uid))


def members_of(campaign: str, asked: Mapping[str, Any]) -> tuple[list[ArrayMember], dict[str, Any]]:
    """Return a member for each index that was measured, and what the campaign says of itself: ``axis``, ``expected``.

    Raises
    ------
    DispatchError
        When no run of such a campaign has ended, or `asked` makes no specification.
    CatalogError
        When the catalogue cannot be reached.
    """
    client = connect()
    with client.context:
        runs = [run for run in _runs(client, campaign) if run.get("stop")]
    if not runs:
        raise DispatchError(
            f"no run of a campaign {campaign!r} has ended in the catalogue; give the uid in ptychography.campaign.uid"
        )
    best: dict[Any, Mapping[str, Any]] = {}
    for run in sorted(runs, key=lambda run: (_complete(run), float(run["start"].get("time", 0.0)))):
        block = run["start"]["ptychography"]
        best[block["campaign"].get("index", block.get("continues") or run["start"]["uid"])] = run
    members = []
    for run in best.values():
        ties, uid = run["start"]["ptychography"]["campaign"], str(run["start"]["uid"])
        try:
            spec = JobSpec(source=TiledSource(uid=uid), **asked)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc'])) or 'spec'}: {e['msg']}" for e in error.errors()]
            raise DispatchError(report("jobs of a campaign", faults)) from None
        members.append(ArrayMember(spec, ties.get("index"), ties.get("value")))
    ties = runs[-1]["start"]["ptychography"]["campaign"]
    return members, {"axis": ties.get("axis", ""), "expected": ties.get("count")}


def _complete(run: Mapping[str, Any]) -> bool:
    return bool(run["stop"].get("exit_status") == "success")
