"""What can be known to go wrong before anything moves: all of it, in one list."""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.protocols import Checkable, Collectable, Flyable, Movable, Preparable, Readable

from ptycho_bluesky.experiment import POSITION_UNITS_M, FlyPath, PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._arguments import device_positions

__all__ = ["Found", "NotAsked", "axis_faults", "flyer_faults", "scan_faults"]

Plan = Generator[Any, Any, Any]

ANSWER_S = 10.0
"""Seconds within which a device has to say what it delivers and allows."""


class NotAsked(Exception):
    """Thrown into a plan in a dry run, where it asks a device something that would reach the hardware."""


@dataclass
class Found:
    """What the devices said before the start."""

    faults: list[str] = field(default_factory=list)
    frame_shape: tuple[int, int] | None = None
    """(H, W); None where the detector cannot tell yet."""
    bytes_per_pixel: int = 2
    velocity: float | None = None
    """Of the slower axis, metres (or pixels) per second."""


def _called(function: Any, *args: Any) -> Plan:
    """Call a device's function, in the RunEngine's event loop where it is a coroutine."""
    if not inspect.iscoroutinefunction(function):
        return function(*args)
    (task,) = yield from bps.wait_for([lambda: function(*args)], timeout=ANSWER_S)
    return task.result()


def scan_faults(
    detectors: Sequence[Any], y: Any, x: Any, pattern: ScanPattern, metadata: PtychographyMetadata, found: Found
) -> Plan:
    """Add, as a plan, all faults of the devices of a step scan to `found`; nothing moves, no document is made."""
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
    found.faults += bad
    if bad:
        return
    found.faults += yield from _reach(y, x, pattern, metadata)
    found.velocity = _slower(y, x, metadata)
    roles = (
        ("frames_key", metadata.frames_key, detectors),
        ("position_keys[0]", metadata.position_keys[0], [y]),
        ("position_keys[1]", metadata.position_keys[1], [x]),
    )
    yield from _keys([*detectors, y, x], roles, metadata, found, "describe")


def flyer_faults(
    detectors: Sequence[Any],
    flyer: Any,
    pattern: ScanPattern,
    path: FlyPath,
    metadata: PtychographyMetadata,
    found: Found,
) -> Plan:
    """Add, as a plan, all faults of the devices of a fly scan to `found`."""
    wanted = ((Preparable, "prepare"), (Flyable, "kickoff and complete"), (Collectable, "describe_collect"))
    bad = [
        f"{getattr(device, 'name', device)!r} cannot fly: it has no {verb}"
        for device in (flyer, *detectors)
        for protocol, verb in wanted
        if not isinstance(device, protocol)
    ]
    found.faults += bad
    if bad:
        return
    y, x = getattr(flyer, "y", None), getattr(flyer, "x", None)
    if y is not None and x is not None:
        found.faults += yield from _reach(y, x, pattern, metadata)
    if hasattr(flyer, "check_path"):
        found.faults += [f"{flyer.name}: {fault}" for fault in (yield from _called(flyer.check_path, path))]
    both = [*detectors, flyer]
    roles = (
        ("frames_key", metadata.frames_key, both),
        *((f"position_keys[{i}]", key, both) for i, key in enumerate(metadata.position_keys)),
    )
    yield from _keys(both, roles, metadata, found, "describe_collect")


def axis_faults(axis: Any, values: Sequence[float], unit: str, what: str) -> Plan:
    """Return, as a plan, the faults of one more axis and the values that it is to be set to."""
    if not isinstance(axis, Movable):
        return [f"{what} is {axis!r}, which cannot be moved"]
    return (yield from _limits(axis, np.asarray(values, np.float64), unit))


def _reach(y: Any, x: Any, pattern: ScanPattern, metadata: PtychographyMetadata) -> Plan:
    faults = []
    for axis, values in zip((y, x), device_positions(pattern, metadata).T, strict=True):
        faults += yield from _limits(axis, values, metadata.position_unit)
    return faults


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
        except NotAsked:
            return []
        except Exception as error:  # noqa: BLE001, whatever a device raises here is its way to say no
            return [f"{axis.name} refuses {value:.4g} {unit}: {error}"]
    return []


def _slower(y: Any, x: Any, metadata: PtychographyMetadata) -> float | None:
    """Return the velocity of the slower axis, metres (or pixels) per second, None where one does not tell it."""
    known = [getattr(getattr(axis, "velocity", None), "get", None) for axis in (y, x)]
    if not all(callable(get) and not inspect.iscoroutinefunction(get) for get in known):
        return None
    slower = min(float(get()) for get in known if get is not None)
    unit = POSITION_UNITS_M.get(metadata.position_unit, 1.0)
    return slower * unit if 0 < slower < math.inf else None


def _keys(
    devices: Sequence[Any],
    roles: Sequence[tuple[str, str, Sequence[Any]]],
    metadata: PtychographyMetadata,
    found: Found,
    verb: str,
) -> Plan:
    """Add the faults of the data keys: those named in the metadata must be what the devices deliver."""
    known: dict[str, Any] = {}
    for device in devices:
        describe = getattr(device, verb)
        try:
            known.update((yield from _called(describe)))
        except Exception as error:  # noqa: BLE001, any device, any fault
            if not inspect.iscoroutinefunction(describe):
                found.faults.append(f"{device.name} cannot tell its data keys: {type(error).__name__}: {error}")
            return  # many ophyd-async detectors can tell their keys only when they are prepared
    for role, key, owners in roles:
        if key not in known:
            names = ", ".join(device.name for device in owners)
            found.faults.append(
                f"{role} is {key!r}, but {names} delivers no such key; there are {', '.join(sorted(known))}"
            )
    frames: Mapping[str, Any] | None = known.get(metadata.frames_key)
    if frames is None:
        return
    shape = frames.get("shape", ())
    if len(shape) < 2:
        found.faults.append(f"frames_key {metadata.frames_key!r} is no image: its shape is {frames.get('shape')}")
        return
    if all(isinstance(n, int) for n in shape[-2:]):
        found.frame_shape = shape[-2], shape[-1]
    if "dtype_numpy" in frames:
        found.bytes_per_pixel = np.dtype(frames["dtype_numpy"]).itemsize
