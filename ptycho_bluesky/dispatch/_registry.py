"""What a runner can do, by name: a specification names a recipe and never carries code."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from typing import Any

__all__ = ["GROUP", "RECIPES", "is_known", "recipe"]

RECIPES = ("reconstruct", "train", "check")
"""Names of this package's recipes."""

GROUP = "ptycho_bluesky.recipes"
"""Group of entry points under which installed packages register others: ``(spec, should_stop, on_state, folder)`` ->
:class:`~ptycho_bluesky.experiment.Reconstruction`, or None where the job was stopped before there was one."""


@cache
def _others() -> EntryPoints:
    """Return the recipes of installed packages; looking for them takes 50 ms."""
    return entry_points(group=GROUP)


def is_known(name: str) -> bool:
    """Whether a recipe is registered under this name."""
    return name in RECIPES or name in _others().names


def recipe(name: str) -> Any:
    """Return the function of a registered recipe. Heavy: for runners alone.

    Raises
    ------
    KeyError
        When there is none.
    """
    if name in RECIPES:
        # By name: what is imported when a specification is read must not lead to the engines.
        return importlib.import_module("ptycho_bluesky.dispatch._recipes").FUNCTIONS[name]
    return _others()[name].load()
