"""What the numbers of one dataset say about ours beside the best peer."""

from __future__ import annotations

from typing import Any

from side_by_side.entries import FREE, ONE, TARGETS, THREE

Reports = dict[str, dict[str, Any]]


def verdict(reports: Reports, floor_s: float) -> dict[str, Any]:
    """Return ratios and comparisons; a key is missing where ours or every peer did not run."""
    ours = {r["group"]: r for r in reports.values() if r["engine"] == "ours" and "r_factor" in r}
    peers = [r for r in reports.values() if r["engine"] != "ours" and "r_factor" in r]
    found: dict[str, Any] = {}
    if ONE in ours:
        mine, rivals = ours[ONE], [r for r in peers if r["group"] == ONE]
        found["times_floor"] = round(mine["s_per_epoch"] / floor_s, 2)
        if rivals:
            found["times_faster_per_epoch_than_the_fastest_peer"] = round(
                min(r["s_per_epoch"] for r in rivals) / mine["s_per_epoch"], 1
            )
        for target in TARGETS:
            key = f"R<={target}"
            reached = [r["seconds_to"][key] for r in peers if r["seconds_to"][key] is not None]
            if reached and mine["seconds_to"][key]:
                found[f"times_faster_to_{key}_than_the_best_peer"] = round(min(reached) / mine["seconds_to"][key], 1)
    if THREE in ours and any(r["group"] == THREE for r in peers):
        best = min(r["r_factor"] for r in peers if r["group"] == THREE)
        found["r_factor_3_modes"] = {"ours": ours[THREE]["r_factor"], "best_peer": best}
    if FREE in ours and peers:
        mine = ours[FREE]
        found["within_the_budget"] = {
            "r_factor": {"ours": mine["r_factor"], "best_peer": min(r["r_factor"] for r in peers)},
            "half_data_correlation": {
                "ours": mine["half_data_correlation"]["mean"],
                "best_peer": max(r["half_data_correlation"]["mean"] for r in peers),
            },
            "phase_contrast_rad": {
                "ours": mine["phase_contrast_rad"],
                "peers": [min(r["phase_contrast_rad"] for r in peers), max(r["phase_contrast_rad"] for r in peers)],
            },
        }
    return found
