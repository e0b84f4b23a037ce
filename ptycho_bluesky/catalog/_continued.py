"""A scan that was aborted and continued: several runs, one set of positions."""

from __future__ import annotations

from typing import Any

from tiled.queries import Key

__all__ = ["continued"]


def continued(run: Any) -> list[Any]:
    """Return the runs that measure one pattern together, in the order of their first positions; often just `run`.

    Parameters
    ----------
    run:
        Tiled client of the first run, or of one that continues it (``ptychography.continues``).
    """
    parent = getattr(run, "parent", None)
    if parent is None:
        return [run]
    start = run.metadata["start"]
    root = (start.get("ptychography") or {}).get("continues") or start["uid"]
    found = {str(other.metadata["start"]["uid"]): other for other in _later(parent, str(root))}
    if root != start["uid"] and root in parent:
        found[str(root)] = parent[root]
    found[str(start["uid"])] = run
    return sorted(found.values(), key=_order)


def _later(parent: Any, root: str) -> list[Any]:
    found = parent.search(Key("start.ptychography.continues") == root)
    return [run for run in found.values()]  # noqa: C416, list() would ask for their number first


def _order(run: Any) -> tuple[int, float]:
    start = run.metadata["start"]
    return int((start.get("ptychography") or {}).get("first_point", 0)), float(start.get("time", 0.0))
