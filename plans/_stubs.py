"""Parts of a scan, to build other plans from."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, all_safe_rewind, maybe_await, separate_devices, short_uid

__all__ = ["halt", "move_and_read", "save_once_wrapper", "shutter_wrapper"]

logger = logging.getLogger(__name__)

Plan = Generator[Any, Any, Any]

STOP_S = 10.0
"""Seconds within which devices have to obey a stop."""

# Messages that come with every point are made by hand: each of Bluesky's own stubs formats a stack trace when it is
# called, to warn of plans that are never iterated: 4.5 ms an event instead of 3.0 (CPU, 64 x 64 frames).


def move_and_read(detectors: Sequence[Any], step: Mapping[Any, float], pos_cache: dict[Any, Any]) -> Plan:
    """Set a checkpoint, move all axes together, trigger and read: one event.

    The usual ``per_step`` of :func:`ptycho_scan`; a custom one has the same signature.

    Parameters
    ----------
    detectors : list of Readable
        Devices to trigger and read.
    step : dict
        Axes and where they are to go, in their own units.
    pos_cache : dict
        Where each axis was sent last, None in the beginning; an axis that is there already is not moved.
    """
    yield Msg("checkpoint")
    group = short_uid("set")
    for axis, position in step.items():
        if pos_cache[axis] != position:
            yield Msg("set", axis, position, group=group)
            pos_cache[axis] = position
    yield Msg("wait", None, group=group)
    devices = separate_devices([*detectors, *step])
    if all_safe_rewind(devices):
        yield from _measure(devices)
    else:
        yield from bpp.rewindable_wrapper(_measure(devices), False)


def _measure(devices: Sequence[Any]) -> Plan:
    """Trigger and read `devices` into one event, as ``bps.trigger_and_read`` does."""
    group = short_uid("trigger")
    for device in devices:
        if hasattr(device, "trigger"):
            yield Msg("trigger", device, group=group)
    yield Msg("wait", None, group=group)
    yield Msg("create", None, name="primary")
    try:
        for device in devices:
            yield Msg("read", device)
    except Exception:
        yield Msg("drop")
        raise
    yield Msg("save")


def halt(devices: Sequence[Any]) -> Plan:
    """Stop devices at once, without failing the moves that this ends (``bps.stop`` fails them, and so the plan).

    A device that cannot be stopped is logged: an error here would hide why the scan was to stop.
    """

    def stopping(device: Any) -> Callable[[], Awaitable[None]]:
        async def stop() -> None:
            try:
                await maybe_await(device.stop(success=True))
            except Exception:
                logger.exception("%s could not be stopped", getattr(device, "name", device))

        return stop

    stoppable = [stopping(device) for device in devices if hasattr(device, "stop")]
    if stoppable:
        yield from bps.wait_for(stoppable, timeout=STOP_S)


def save_once_wrapper(plan: Plan) -> Plan:
    """Make every event of `plan` appear once, whenever the scan is paused.

    The RunEngine repeats, on resume, all messages since the last checkpoint. A pause between an event's ``save`` and
    the next checkpoint would emit that event twice; here ``save`` is taken out of what is repeated, and what came
    before it is forgotten.
    """

    def saving(msg: Any) -> Plan:
        if not (yield Msg("rewindable", None, None)):
            return (yield msg)
        yield Msg("rewindable", None, False)  # a change of this flag is a checkpoint, allowed inside of an event
        return (yield from bpp.finalize_wrapper(iter_of(msg), iter_of(Msg("rewindable", None, True))))

    def once(msg: Any) -> tuple[Plan | None, None]:
        return (saving(msg) if msg.command == "save" else None), None

    return (yield from bpp.plan_mutator(plan, once))


def iter_of(msg: Any) -> Plan:
    """Return the plan of one message."""
    return (yield msg)


def shutter_wrapper(plan: Plan, shutter: Any, open_value: Any = "open", closed_value: Any = "closed") -> Plan:
    """Open a shutter before a plan, and close it however the plan ends.

    Parameters
    ----------
    plan : generator
        Any plan, e.g. a whole campaign.
    shutter : Movable
        Set to `open_value` and `closed_value`.
    """

    def exposed() -> Plan:
        yield from bps.mv(shutter, open_value)
        return (yield from plan)

    return (yield from bpp.finalize_wrapper(exposed(), lambda: bps.mv(shutter, closed_value)))
