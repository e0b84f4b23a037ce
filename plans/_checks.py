"""What can be known to go wrong before anything moves: all of it, in one list."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.protocols import Checkable, Movable, Readable

from ptycho_bluesky.experiment import PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._arguments import device_positions

__all__ = ["scan_faults"]

Plan = Generator[Any, Any, Any]

ANSWER_S = 10.0
"""Seconds within which a device has to say what it delivers and allows."""


def _called(function: Any, *args: Any) -> Plan:
    """Call a device's function, in the RunEngine's event loop where it is a coroutine."""
    if not inspect.iscoroutinefunction(function):
        return function(*args)
    (task,) = yield from bps.wait_for([lambda: function(*args)], timeout=ANSWER_S)
    return task.result()


def scan_faults(
    detectors: Sequence[Any],
    y: Any,
    x: Any,
    pattern: ScanPattern,
    metadata: PtychographyMetadata,
    md: Mapping[str, Any],
    overlap: float | None,
    min_overlap: float | None,
) -> Plan:
    """Return, as a plan, the list of all faults of a scan in plain words; nothing moves, no document is made."""
    faults = list(metadata.missing())
    if "ptychography" in md:
        faults.append("md has the key 'ptychography', which the plan fills itself; give its contents as metadata")
    if min_overlap is not None:
        faults += _overlap(metadata, overlap, min_overlap)
    bad = [
        f"{role} is {device!r}, which cannot be moved"
        for role, device in (("y", y), ("x", x))
        if not isinstance(device, Movable)
    ]
    bad += [f"detector {device!r} cannot be read" for device in detectors if not isinstance(device, Readable)]
    if not detectors:
        bad.append("there is no detector; give at least the one that delivers the frames")
    if y is x:
        bad.append(f"y and x are the same device, {getattr(y, 'name', y)}")
    faults += bad
    if not bad:
        for axis, values in zip((y, x), device_positions(pattern, metadata).T, strict=True):
            faults += yield from _limits(axis, values, metadata.position_unit)
        faults += yield from _keys(detectors, y, x, metadata)
    return faults


def _overlap(metadata: PtychographyMetadata, overlap: float | None, min_overlap: float) -> list[str]:
    if overlap is None or overlap >= min_overlap:
        return []
    diameter_um = (metadata.probe_diameter_m or 0.0) * 1e6
    return [
        f"neighbouring probes overlap by {overlap:.0%} (their diameter is {diameter_um:.3g} um); at least "
        f"{min_overlap:.0%} is required: a step of {(1 - min_overlap) * diameter_um:.3g} um or less, a larger probe, "
        "or min_overlap=None for no check"
    ]


def _limits(axis: Any, values: Any, unit: str) -> Plan:
    """Return the faults of one axis: positions outside of its limits, or that it refuses."""
    lowest, highest = float(values.min()), float(values.max())
    limits = getattr(axis, "limits", None)
    if isinstance(limits, tuple | list) and len(limits) == 2 and limits[0] < limits[1]:
        low, high = limits
        outside = int(((values < low) | (values > high)).sum())
        if outside:
            return [
                f"{axis.name} leaves its limits: the pattern spans {lowest:.4g} to {highest:.4g} {unit}, allowed is "
                f"{low:.4g} to {high:.4g} {unit}, {outside} of {len(values)} positions are outside: move or shrink it"
            ]
    if not isinstance(axis, Checkable):
        return []
    for value in (lowest, highest):
        try:
            yield from _called(axis.check_value, value)
        except Exception as error:  # noqa: BLE001, whatever a device raises here is its way to say no
            return [f"{axis.name} refuses {value:.4g} {unit}: {error}"]
    return []


def _keys(detectors: Sequence[Any], y: Any, x: Any, metadata: PtychographyMetadata) -> Plan:
    """Return the faults of the data keys: those named in the metadata must be what the devices deliver."""
    known: dict[str, Any] = {}
    for device in (*detectors, y, x):
        try:
            known.update((yield from _called(device.describe)))
        except Exception as error:  # noqa: BLE001, any device, any fault
            if inspect.iscoroutinefunction(device.describe):
                return []  # many ophyd-async detectors can tell their keys only when they are prepared
            return [f"{device.name} cannot tell its data keys: {type(error).__name__}: {error}"]
    faults = []
    for role, key, devices in (
        ("frames_key", metadata.frames_key, detectors),
        ("position_keys[0]", metadata.position_keys[0], [y]),
        ("position_keys[1]", metadata.position_keys[1], [x]),
    ):
        if key not in known:
            names = ", ".join(device.name for device in devices)
            faults.append(f"{role} is {key!r}, but {names} delivers no such key; there are {', '.join(sorted(known))}")
    frames = known.get(metadata.frames_key)
    if frames is not None and len(frames.get("shape", ())) < 2:
        faults.append(f"frames_key {metadata.frames_key!r} is no image: its shape is {frames.get('shape')}")
    return faults
