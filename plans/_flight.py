"""Parts of a fly scan, to build other plans from."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, short_uid

from ptycho_bluesky.experiment import FlyPath
from ptycho_bluesky.plans._stubs import iter_of

__all__ = ["collect_rest", "fly_flight", "prepare_flight"]

logger = logging.getLogger(__name__)

Plan = Generator[Any, Any, Any]


def prepare_flight(detectors: Sequence[Any], flyer: Any, path: FlyPath) -> Plan:
    """Arm detectors and flyer for the frames of `path`, all at the same time; may be repeated.

    Parameters
    ----------
    detectors : list of Preparable
        Prepared with ophyd-async's ``TriggerInfo``: so many external triggers of so long an exposure.
    flyer : Preparable
        Prepared with `path`.
    path : FlyPath
        In the unit of the axes.
    """
    from ophyd_async.core import DetectorTrigger, TriggerInfo  # 0.4 s that a step scan need not wait for

    group = short_uid("prepare")
    info = TriggerInfo(
        number_of_events=len(path),
        trigger=DetectorTrigger.EXTERNAL_EDGE,
        livetime=path.exposure_s,
        deadtime=path.period_s - path.exposure_s,
    )
    for detector in detectors:
        yield from bps.prepare(detector, info, group=group)
    yield from bps.prepare(flyer, path, group=group)
    yield from bps.wait(group=group)


def fly_flight(detectors: Sequence[Any], flyer: Any, *, flush_s: float, declare: bool, stream: str = "primary") -> Plan:
    """Fly what was prepared, and collect documents while it lasts; not repeated by a pause.

    A pause stops devices that have ``pause`` and ``resume`` and goes on where they were; other devices end their flight
    meanwhile. Bluesky's own ``collect_while_completing`` forgets, when it is paused, what it was waiting for.

    Parameters
    ----------
    detectors : list of Flyable
        Armed before the flyer starts.
    flyer : Flyable
        Moves the axes and triggers the detectors.
    flush_s : float
        Seconds between two collections.
    declare : bool
        Whether the stream has to be declared: for the first flight of a run.
    stream : str
        Name of the stream.
    """

    def flight() -> Plan:
        if declare:
            yield from bps.declare_stream(*detectors, flyer, name=stream, collect=True)
        for armed in (detectors, [flyer]):
            group = short_uid("kickoff")
            for device in armed:
                yield from bps.kickoff(device, group=group)
            yield from bps.wait(group=group)
        group = short_uid("complete")
        statuses = []
        for device in (flyer, *detectors):
            statuses.append((yield Msg("complete", device, group=group)))
        while not all(status.done for status in statuses):
            if (yield Msg("wait", None, group=group, timeout=flush_s, error_on_timeout=False)) is not False:
                yield Msg("sleep", None, flush_s / 4)  # after a pause the group is forgotten, and a wait is none
            yield from bps.collect(*detectors, flyer, name=stream)
        yield from bps.wait(group=group)
        yield from bps.collect(*detectors, flyer, name=stream)

    if not (yield Msg("rewindable", None, None)):
        return (yield from flight())
    yield Msg("rewindable", None, False)
    return (yield from bpp.finalize_wrapper(flight(), iter_of(Msg("rewindable", None, True))))


def collect_rest(detectors: Sequence[Any], flyer: Any, stream: str = "primary") -> Plan:
    """Collect, after a stop, frames that were written and not collected; a fault here must not hide the first one."""
    try:
        yield from bps.collect(*detectors, flyer, name=stream)
    except Exception:
        logger.exception("the last frames of the flight could not be collected")
