"""One thing that a look at a dataset brought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DatasetFinding"]


@dataclass(frozen=True)
class DatasetFinding:
    """What looks wrong with a dataset, its likely cause and what to do."""

    what: str
    """In a word or two: ``orientation``, ``unit``, ``scale``..."""

    level: Literal["error", "warning"]
    """``error``: a reconstruction would be wrong. ``warning``: it would be worse than it could be, or nothing is
    certain."""

    text: str
    """What was seen, why that is, what to do."""
