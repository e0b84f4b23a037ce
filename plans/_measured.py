"""How far a run has come: from Tiled, or from its documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import PlanError, PtychoError
from ptycho_bluesky.experiment import POSITION_UNITS_M, PtychographyMetadata

__all__ = ["Measured", "measured_of"]


@dataclass(frozen=True)
class Measured:
    """What is there of a pattern."""

    uid: str
    """Of the first run."""
    block: PtychographyMetadata
    """Of the first run."""
    count: int
    """Positions measured, from the first on."""
    positions: npt.NDArray[np.float64]
    """(n, 2) in the unit of the devices, those that are known."""


def measured_of(run: Any) -> Measured:
    """Return how far a run, and those that continue it, have come.

    Parameters
    ----------
    run:
        Uid, Tiled client, or list of (name, document).

    Raises
    ------
    PlanError
        When there is no such run.
    CatalogError, DatasetError
        When it is no ptychographic run.
    """
    if isinstance(run, Sequence) and not isinstance(run, str):
        return _from_documents(run)
    from ptycho_bluesky.catalog import block_of, connect, continued, measured  # Tiled: only for those that need it

    client = None
    if isinstance(run, str):
        client = connect()
        try:
            run = client["raw"][run]
        except (KeyError, ValueError):
            client.context.close()
            raise PlanError(f"run {run!r} is not in the catalogue; give its uid, its client or its documents") from None
    family = continued(run)
    count, parts, first = 0, [], block_of(family[0])
    for member in family:
        block = block_of(member)
        try:
            positions, frames = measured(member, block)
        except PtychoError:
            positions, frames = np.empty((0, 2)), 0  # ended before its first frame
        if block.first_point <= count < block.first_point + frames:
            parts.append(positions[count - block.first_point : frames] - np.asarray(block.position_offset_m))
            count = block.first_point + frames
    uid = str(family[0].metadata["start"]["uid"])
    if client is not None:
        client.context.close()
    unit = POSITION_UNITS_M.get(first.position_unit, 1.0)
    found = np.concatenate(parts) if parts else np.empty((0, 2))
    return Measured(uid, first, count, found * np.asarray(first.axis_signs) / unit)


def _from_documents(documents: Sequence[Any]) -> Measured:
    """Count the frames of one run; positions are known where they come in events."""
    starts = [doc for name, doc in documents if name == "start"]
    if len(starts) != 1:
        raise PlanError(f"the documents have {len(starts)} start documents; give those of one run")
    block = PtychographyMetadata.from_start(starts[0])
    keys = (block.frames_key, *block.position_keys)
    events: dict[int, tuple[float, float]] = {}
    streams = {doc["uid"] for name, doc in documents if name == "descriptor" and doc.get("name") == block.frames_stream}
    resources = {doc["uid"]: doc["data_key"] for name, doc in documents if name == "stream_resource"}
    ends: dict[str, int] = {}
    seen: set[int] = set()
    for name, doc in documents:
        if name == "event" and doc["descriptor"] in streams:
            seen.add(doc["seq_num"])
            if all(key in doc["data"] for key in block.position_keys):
                y, x = (float(doc["data"][key]) for key in block.position_keys)
                events[doc["seq_num"]] = y, x
        elif name == "stream_datum" and doc["descriptor"] in streams and doc["stream_resource"] in resources:
            key = resources[doc["stream_resource"]]
            ends[key] = max(ends.get(key, 0), int(doc["indices"]["stop"]))
    external = [ends[key] for key in keys if key in ends]
    count = min([*external, len(seen)] if seen else external, default=0)
    positions = np.array([events[number] for number in sorted(events)], np.float64).reshape(-1, 2)
    uid, first = block.continues or str(starts[0]["uid"]), block.first_point
    if first:
        positions = np.empty((0, 2))  # of the middle of the pattern: nothing to compare its begin with
    return Measured(uid, block, first + count, positions[:count])
