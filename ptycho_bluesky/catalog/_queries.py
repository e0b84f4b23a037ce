"""What to search the catalogue for: ``catalog["processed/ptychography"].search(ReconstructionsOf(uid))``.

Each gives a Tiled query, named as Tiled's own are; searching a search again joins two.
"""

from __future__ import annotations

from typing import Any

from tiled.queries import Comparison, Key

__all__ = ["CampaignRuns", "ReconstructionsBy", "ReconstructionsOf", "ResolvedTo"]


def ReconstructionsOf(raw_uid: str) -> Any:
    """Match the reconstructions of a run, by its whole uid; in ``processed/ptychography``."""
    return Key("raw_uid") == raw_uid


def ReconstructionsBy(engine: str) -> Any:
    """Match the reconstructions that an engine made, e.g. ``"auto"``; in ``processed/ptychography``."""
    return Key("engine") == engine


def ResolvedTo(r_factor: float) -> Comparison:
    """Match the reconstructions whose R-factor is `r_factor` or less; in ``processed/ptychography``."""
    return Comparison("le", "r_factor", r_factor)


def CampaignRuns(campaign: str) -> Any:
    """Match the runs of a campaign (views, energies, times of one measurement), by its uid; in ``raw``."""
    return Key("start.ptychography.campaign.uid") == campaign
