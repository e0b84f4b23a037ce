"""Colour maps, one table for the browser and for saved pictures; all of them can be told apart by colour-blind eyes."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

__all__ = ["colour_table", "colours"]


@cache
def colours() -> dict[str, str]:
    """Return each map's anchors, equally far from one another, as rrggbb one after another; twilight is cyclic."""
    text = files("ptycho_bluesky.jupyter").joinpath("assets", "colours.json").read_text()
    return dict(json.loads(text))


def colour_table(name: str) -> npt.NDArray[np.uint8]:
    """Return the map as (256, 3) red, green, blue."""
    anchors = np.frombuffer(bytes.fromhex(colours()[name]), np.uint8).reshape(-1, 3).astype(float)
    at = np.linspace(0, len(anchors) - 1, 256)
    table = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.stack(table, 1).round().astype(np.uint8)
