"""What the queue server cannot read from a signature: the plain form of our own types, and the range of numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["for_queue_server"]

Plan = TypeVar("Plan", bound=Callable[..., Any])

PLAIN = "typing.Dict[str, typing.Any]"

TABLES = ("pattern", "tile", "metadata", "limits", "md")
"""Parameters that are given as tables of plain values."""

RANGES: dict[str, dict[str, float]] = {
    "count": {"min": 1, "max": 100_000},
    "exposure_s": {"min": 1e-6, "max": 3600},
    "first_index": {"min": 0, "max": 100_000},
    "flight_frames": {"min": 1, "max": 10_000_000},
    "flush_s": {"min": 0.01, "max": 10},
    "height_m": {"min": 1e-9, "max": 1},
    "interval_s": {"min": 0, "max": 1e6},
    "min_overlap": {"min": 0, "max": 1},
    "period_s": {"min": 1e-6, "max": 3600},
    "tile_overlap_m": {"min": 0, "max": 1},
    "width_m": {"min": 1e-9, "max": 1},
}
"""Allowed values, for forms and for validation before a plan is queued."""


def for_queue_server(plan: Plan) -> Plan:
    """Attach to a plan what bluesky-queueserver's ``parameter_annotation_decorator`` would; it need not be there."""
    parameters: dict[str, dict[str, Any]] = {}
    for name, parameter in inspect.signature(plan).parameters.items():
        if name in TABLES:
            optional = parameter.default is None
            parameters[name] = {"annotation": f"typing.Optional[{PLAIN}]" if optional else PLAIN}
        elif name in RANGES:
            parameters[name] = dict(RANGES[name])
    plan._custom_parameter_annotation_ = {"parameters": parameters}  # type: ignore[attr-defined]
    return plan
