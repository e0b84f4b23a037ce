"""The fly scan: the flyer moves, triggers and captures; documents carry ranges of frames."""

# No "from __future__ import annotations" here: the queue server reads the annotations, and cannot as strings.

from collections.abc import Generator, Sequence
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.protocols import Flyable
from bluesky.utils import Msg

from ptycho_bluesky.config import ScanLimits
from ptycho_bluesky.errors import PlanError, report
from ptycho_bluesky.experiment import FlyPath, PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._annotations import for_queue_server
from ptycho_bluesky.plans._arguments import device_positions, metadata_from, pattern_from
from ptycho_bluesky.plans._flight import collect_rest, fly_flight, prepare_flight
from ptycho_bluesky.plans._limits import limits_from
from ptycho_bluesky.plans._scan import MIN_OVERLAP
from ptycho_bluesky.plans._start import Scan, checked
from ptycho_bluesky.plans._stubs import halt

__all__ = ["fly_path", "flying", "ptycho_fly", "run_flights"]

FLUSH_S = 0.1
"""Seconds between two collections: 10 ranges of frames a second for live views, whatever the frame rate."""

FLIGHT_FRAMES = 5000
"""Frames after which a flight ends at the next line, so that a deferred pause need not wait for the whole scan."""


@for_queue_server
def ptycho_fly(
    detectors: Sequence[Flyable],
    flyer: Flyable,
    pattern: ScanPattern | dict[str, Any],
    *,
    metadata: PtychographyMetadata | dict[str, Any],
    exposure_s: float | None = None,
    period_s: float | None = None,
    md: dict[str, Any] | None = None,
    min_overlap: float | None = MIN_OVERLAP,
    limits: ScanLimits | dict[str, Any] | None = None,
    flush_s: float = FLUSH_S,
    flight_frames: int = FLIGHT_FRAMES,
) -> Generator[Any, Any, str]:
    """Measure the positions of a scan pattern in flight: lines at steady speed, one frame each period.

    Checked as :func:`ptycho_scan`. The scan is cut into flights that end with a line; between them is a checkpoint,
    where a deferred pause takes effect. A pause at once stops a flyer that can pause, and neither loses nor repeats a
    frame. After an abort the run holds all frames that were written.

    Parameters
    ----------
    detectors : list of Flyable
        Devices that are triggered by the flyer and write frames; empty where the flyer writes them itself.
    flyer : Flyable
        Moves the axes along a ``FlyPath``, triggers the detectors, captures the positions.
    pattern : ScanPattern or dict
        As for :func:`ptycho_scan`, with lines: snake, raster, concentric, lissajous, region.
    metadata : PtychographyMetadata or dict
        As for :func:`ptycho_scan`.
    exposure_s : float, optional
        Of a frame, seconds; ``metadata.exposure_s`` where None.
    period_s : float, optional
        From the begin of a frame to that of the next, seconds; the exposure where None.
    md : dict, optional
        More metadata for the start document; wins over what the plan writes.
    min_overlap : float or None
        As for :func:`ptycho_scan`.
    limits : ScanLimits or dict, optional
        As for :func:`ptycho_scan`.
    flush_s : float
        Seconds between two collections of documents.
    flight_frames : int
        Most frames of a flight, but never less than a line.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanError
        With all faults, before anything has moved.
    """
    scan = flying(
        list(detectors),
        flyer,
        pattern_from(pattern),
        metadata_from(metadata),
        md,
        limits,
        min_overlap,
        exposure_s,
        period_s,
    )
    return (yield from run_flights(scan, "ptycho_fly", flush_s, flight_frames))


def flying(
    detectors: list[Any],
    flyer: Any,
    pattern: ScanPattern,
    metadata: PtychographyMetadata,
    md: dict[str, Any] | None,
    limits: ScanLimits | dict[str, Any] | None,
    min_overlap: float | None,
    exposure_s: float | None,
    period_s: float | None,
) -> Scan:
    """Return a fly scan as it is to be.

    Raises
    ------
    PlanError
        When the pattern has no lines, or the exposure is not known or not within the period.
    """
    exposure = metadata.exposure_s if exposure_s is None else exposure_s
    period = exposure if period_s is None else period_s
    faults = []
    if exposure is None or period is None or not 0 < exposure <= period:
        faults.append(
            f"exposure_s is {exposure} and period_s {period}; give both above 0, the exposure not above the period"
        )
    if not pattern.lines:
        faults.append(
            f"pattern {pattern.name!r} has no lines that could be flown; take snake, raster, concentric, lissajous or "
            "region, without jitter, or measure it in steps with ptycho_scan"
        )
    if faults:
        raise PlanError(report("scan refused, nothing has moved", faults))
    block = metadata.model_copy(update={"exposure_s": exposure, "period_s": period})
    path = fly_path(pattern, block)
    y, x = getattr(flyer, "y", None), getattr(flyer, "x", None)
    return Scan(detectors, y, x, pattern, block, md or {}, limits_from(limits), min_overlap, flyer, path)


def fly_path(pattern: ScanPattern, metadata: PtychographyMetadata) -> FlyPath:
    """Return what the flyer is told: a pattern in its axes' unit and sense, exposure and period from the metadata."""
    exposure = metadata.exposure_s or 0.0
    return FlyPath(device_positions(pattern, metadata), exposure, metadata.period_s or exposure, pattern.lines)


def run_flights(
    scan: Scan, plan_name: str, flush_s: float = FLUSH_S, flight_frames: int = FLIGHT_FRAMES
) -> Generator[Any, Any, str]:
    """Check a fly scan, measure it as one run, and return its uid."""
    detectors, flyer, path = scan.detectors, scan.flyer, scan.path
    if path is None or not (0 < flush_s <= 10 and flight_frames >= 1):
        raise PlanError(f"flush_s is {flush_s}, allowed is up to 10; flight_frames is {flight_frames}, 1 or more")
    start = yield from checked(scan, plan_name)
    start["plan_args"] |= {"exposure_s": path.exposure_s, "period_s": path.period_s, "min_overlap": scan.min_overlap}
    start |= scan.md
    declared = False

    def flights() -> Generator[Any, Any, None]:
        nonlocal declared
        for flight in path.flights(flight_frames):
            yield Msg("checkpoint")
            yield from prepare_flight(detectors, flyer, flight)
            first, declared = not declared, True
            yield from fly_flight(detectors, flyer, flush_s=flush_s, declare=first)

    def halting(_: Exception) -> Generator[Any, Any, None]:
        yield from halt([flyer, *detectors])
        if declared:
            yield from collect_rest(detectors, flyer)

    plan = bpp.contingency_wrapper(flights(), except_plan=halting)
    plan = bpp.stage_wrapper(bpp.run_wrapper(plan, md=start), [*detectors, flyer])
    return str((yield from plan))
