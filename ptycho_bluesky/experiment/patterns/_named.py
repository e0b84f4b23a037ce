"""Patterns from plain values, as a queue server, a form, a file or a run's metadata give them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment.patterns._grids import raster, snake
from ptycho_bluesky.experiment.patterns._lissajous import lissajous
from ptycho_bluesky.experiment.patterns._pattern import ScanPattern
from ptycho_bluesky.experiment.patterns._points import from_positions, jittered
from ptycho_bluesky.experiment.patterns._regions import region, within
from ptycho_bluesky.experiment.patterns._spirals import concentric, fermat

__all__ = ["PATTERNS", "pattern_again", "pattern_named"]

PATTERNS: dict[str, Callable[..., ScanPattern]] = {
    "concentric": concentric,
    "fermat": fermat,
    "lissajous": lissajous,
    "list": from_positions,
    "raster": raster,
    "region": region,
    "snake": snake,
}
"""Patterns that can be given by name."""


def pattern_named(name: Any, parameters: Mapping[str, Any]) -> ScanPattern:
    """Return a pattern by its name and parameters.

    Parameters
    ----------
    name:
        One of :data:`PATTERNS`.
    parameters:
        Its arguments, in metres; for each pattern also ``jitter_m`` and ``jitter_seed``, ``vertices_m`` (a polygon to
        which it is cut) and ``center_m`` = [y, x], where it is moved in the end.

    Raises
    ------
    PlanError
        When the name is not known or the parameters are not those of the pattern.
    """
    if name not in PATTERNS:
        raise PlanError(f"pattern.name is {name!r}; allowed are {', '.join(sorted(PATTERNS))}")
    arguments, make = dict(parameters), PATTERNS[name]
    center = arguments.pop("center_m", None)
    sigma, seed = arguments.pop("jitter_m", None), arguments.pop("jitter_seed", 0)
    polygon = None if name == "region" else arguments.pop("vertices_m", None)
    try:
        inspect.signature(make).bind(**arguments)
        pattern = make(**arguments)
        if polygon is not None:
            pattern = within(pattern, polygon)
        if sigma is not None:
            pattern = jittered(pattern, float(sigma), int(seed))
        return pattern if center is None else pattern.moved((float(center[0]), float(center[1])))
    except (TypeError, ValueError, IndexError) as error:
        wanted = ", ".join(inspect.signature(make).parameters)
        raise PlanError(
            f"pattern {name!r}: {error}; its arguments are {wanted}, and center_m = [y, x], jitter_m, vertices_m"
        ) from None


def pattern_again(name: str, parameters: Mapping[str, Any], num_points: int) -> ScanPattern | None:
    """Return the pattern that a run's metadata tell, None where they do not tell all of it.

    `name` and `parameters` are those of a :class:`ScanPattern`; `num_points` is the number of positions that it must
    have.
    """
    listed = parameters.get("positions_m")
    try:
        pattern = from_positions(listed, name) if listed else pattern_named(name, parameters)
    except PlanError:
        return None
    return pattern if len(pattern) == num_points else None
