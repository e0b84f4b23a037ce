"""What a run's metadata should have said, stored beside the run: the raw run is never touched."""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiled.client.constructors import from_context
from tiled.client.utils import ClientError
from tiled.queries import Key
from tiled.structures.core import Spec

from ptycho_bluesky.catalog._connect import CONFLICT, child
from ptycho_bluesky.catalog._mapping import block_from, mapping_from
from ptycho_bluesky.errors import CatalogError, DatasetError, report

__all__ = ["AMENDMENTS", "amend_run", "amendments_of"]

AMENDMENTS = ("processed", "amendments")
"""Keys of the container that holds the amendments."""

SPEC = Spec("PtychoAmendment", version="1.0")

NOT_FOUND = 404

MOST = 1000
"""Amendments of one run."""


def _root(run: Any) -> Any:
    """Return the container that holds ``raw`` and ``processed``, None where the run is not in one."""
    raw = getattr(run, "parent", None)
    return None if raw is None else raw.parent


def amendments_of(run: Any) -> list[dict[str, Any]]:
    """Return the amendments of a run, oldest first: ``ptychography`` (partial block), ``reason``, ``author``.

    Parameters
    ----------
    run:
        Tiled client of a run, in the container ``raw``.
    """
    if not hasattr(run, "context"):
        return []  # not in a catalogue
    try:
        node = from_context(run.context, node_path_parts=[*run.path_parts[:-2], *AMENDMENTS])
    except ClientError as error:
        if error.response.status_code != NOT_FOUND:
            raise
        return []
    uid = str(run.metadata["start"]["uid"])
    found = [dict(item.metadata) for item in node.search(Key("raw_uid") == uid).values()]
    return sorted(found, key=lambda item: int(item["number"]))


def amend_run(run: Any, changes: Path | str | Mapping[str, Any], reason: str = "") -> dict[str, Any]:
    """Store what a run's ``ptychography`` block should have said, beside the run; datasets are made with it henceforth.

    A later amendment wins over an earlier one, key by key.

    Parameters
    ----------
    run:
        Tiled client of a run, ``client["raw"][uid]``.
    changes:
        TOML file with a table ``[ptychography]``, or its contents: values, or lookups (see :class:`Lookup`).
    reason:
        For those who come later.

    Returns
    -------
    dict
        The amendment as stored.

    Raises
    ------
    DatasetError
        When the block would not be complete with it, or a value cannot be found; nothing is stored then.
    CatalogError
        When the run is not in a catalogue.
    """
    block, root = mapping_from(changes), _root(run)
    if root is None:
        raise CatalogError("an amendment is stored beside a run in Tiled; give client['raw'][uid]")
    uid, before = str(run.metadata["start"]["uid"]), amendments_of(run)
    amended = block_from(run, *(item["ptychography"] for item in before), block)
    if faults := amended.missing():
        raise DatasetError(report(f"run {uid[:8]} with this amendment", faults))
    parent = root
    for name in AMENDMENTS:
        parent = child(parent, name)
    number = len(before) + 1
    while number <= MOST:
        metadata = {
            "raw_uid": uid,
            "number": number,
            "created": time.time(),
            "author": getpass.getuser(),
            "reason": reason,
            "ptychography": block,
        }
        try:
            parent.create_container(f"{uid}-{number:03d}", metadata=metadata, specs=[SPEC])
        except ClientError as error:
            if error.response.status_code != CONFLICT:
                raise
            number += 1  # somebody else was as quick
            continue
        return metadata
    raise CatalogError(f"run {uid[:8]} has {MOST} amendments; delete those that no longer hold")
