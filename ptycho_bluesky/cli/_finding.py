"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["COLOURS", "Finding", "Level"]

Level = Literal["OK", "WARN", "FAIL"]
COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do."""

    what: str
    level: Level
    text: str
    group: str = ""
    """Branch of the tree that it hangs on."""
