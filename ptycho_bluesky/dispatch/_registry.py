"""What a runner can do, by name: a specification names a recipe and never carries code."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

__all__ = ["GROUP", "RECIPES", "is_known", "recipe"]

RECIPES = ("reconstruct", "train")
"""Names of this package's recipes."""

GROUP = "ptycho_bluesky.recipes"
"""Group of entry points under which installed packages register others: ``(spec, should_stop, on_state, folder)`` ->
:class:`~ptycho_bluesky.experiment.Reconstruction`, or None where the job was stopped before there was one."""


def is_known(name: str) -> bool:
    """Whether a recipe is registered under this name."""
    return name in RECIPES or name in entry_points(group=GROUP).names


def recipe(name: str) -> Any:
    """Return the function of a registered recipe. Heavy: for runners alone.

    Raises
    ------
    KeyError
        When there is none.
    """
    if name in RECIPES:
        from ptycho_bluesky.dispatch._recipes import FUNCTIONS

        return FUNCTIONS[name]
    return entry_points(group=GROUP)[name].load()
