"""Plan arguments from plain values, as a queue server, a form or a file gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from ptycho_bluesky.errors import PlanError, report
from ptycho_bluesky.experiment import (
    PATTERNS,
    POSITION_UNITS_M,
    PatternInfo,
    PtychographyMetadata,
    ScanPattern,
    pattern_named,
)
from ptycho_bluesky.experiment.patterns import pattern_again as made_again

__all__ = ["PATTERNS", "device_positions", "metadata_from", "overlap_of", "pattern_again", "pattern_from", "recipe_of"]

MOST_LISTED = 5000
"""Positions that a start document may list, some 200 kB."""


def pattern_from(given: ScanPattern | Mapping[str, Any]) -> ScanPattern:
    """Return the scan pattern that `given` is, or describes.

    Parameters
    ----------
    given:
        A pattern, or e.g. ``{"name": "fermat", "height_m": 6e-6, "width_m": 6e-6, "step_m": 3e-7}`` with the
        arguments of one of :data:`PATTERNS`, and if wanted ``"center_m": [y, x]``.

    Raises
    ------
    PlanError
        When the name is not known or its arguments are not those of the pattern.
    """
    if isinstance(given, ScanPattern):
        return given
    if not isinstance(given, Mapping):
        raise PlanError(f"pattern is {given!r}; allowed is a ScanPattern, or a mapping with its name and arguments")
    arguments = dict(given)
    center = arguments.pop("center_m", None)
    if "positions_m" in arguments and arguments.keys() & {"parameters", "shape", "lines"}:
        pattern = ScanPattern.from_dict(arguments)
        return pattern if center is None else pattern.moved((float(center[0]), float(center[1])))
    if center is not None:
        arguments["center_m"] = center
    return pattern_named(arguments.pop("name", None), arguments)


def metadata_from(given: PtychographyMetadata | Mapping[str, Any]) -> PtychographyMetadata:
    """Return the metadata that `given` is, or holds as plain values.

    Raises
    ------
    PlanError
        Naming every key that is missing, unknown or out of range.
    """
    if isinstance(given, PtychographyMetadata):
        return given
    try:
        return PtychographyMetadata.model_validate(given)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        raise PlanError(report("metadata of the scan", faults)) from None


def device_positions(pattern: ScanPattern, metadata: PtychographyMetadata) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return (N, 2) what the y and x devices are set to for a pattern, in their unit; pixels stay pixels.

    `metadata` tell that unit, and the signs to apply.
    """
    unit = POSITION_UNITS_M.get(metadata.position_unit, 1.0)
    return np.asarray(pattern.positions * np.asarray(metadata.axis_signs) / unit)


def overlap_of(pattern: ScanPattern, metadata: PtychographyMetadata) -> float | None:
    """Return the linear overlap of neighbouring probes, None where the probe's size or the unit is not known."""
    diameter = metadata.probe_diameter_m
    if diameter is None or metadata.position_unit == "px" or len(pattern) < 2:
        return None
    return pattern.overlap(diameter)


def recipe_of(pattern: ScanPattern) -> dict[str, Any]:
    """Return parameters from which :func:`pattern_again` makes the pattern; its positions where nothing else does."""
    try:
        again = pattern_named(pattern.name, pattern.parameters)
        if again.positions.shape == pattern.positions.shape and np.allclose(
            again.positions, pattern.positions, rtol=0, atol=1e-6 * pattern.step_m() or 1e-15
        ):
            return pattern.parameters
    except PlanError:
        pass  # a pattern of somebody's own
    if len(pattern) > MOST_LISTED:
        return pattern.parameters
    return {**pattern.parameters, "positions_m": pattern.positions.tolist()}


def pattern_again(info: PatternInfo) -> ScanPattern | None:
    """Return the pattern that a run's metadata tell, None where they do not tell all of it."""
    return made_again(info.name, info.parameters, info.num_points)
