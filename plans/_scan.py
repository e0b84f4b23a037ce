"""The step scan: checked before anything moves, paused and aborted without harm."""

# No "from __future__ import annotations" here: the queue server reads the annotations, and cannot as strings.

from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.protocols import Movable, Readable

from ptycho_bluesky.config import ScanLimits
from ptycho_bluesky.experiment import PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._annotations import for_queue_server
from ptycho_bluesky.plans._arguments import device_positions, metadata_from, pattern_from
from ptycho_bluesky.plans._limits import limits_from
from ptycho_bluesky.plans._start import Scan, checked
from ptycho_bluesky.plans._stubs import halt, move_and_read, save_once_wrapper

__all__ = ["MIN_OVERLAP", "ptycho_scan", "run_steps"]

MIN_OVERLAP = 0.4
"""Linear overlap below which a scan is refused: about 0.6 reconstructs best, and much less fails (Bunk et al.,
Ultramicroscopy 108, 481 (2008))."""


@for_queue_server
def ptycho_scan(
    detectors: Sequence[Readable],
    y: Movable,
    x: Movable,
    pattern: ScanPattern | dict[str, Any],
    *,
    metadata: PtychographyMetadata | dict[str, Any],
    md: dict[str, Any] | None = None,
    per_step: Callable[..., Generator[Any, Any, Any]] | None = None,
    min_overlap: float | None = MIN_OVERLAP,
    limits: ScanLimits | dict[str, Any] | None = None,
    return_to_start: bool = False,
) -> Generator[Any, Any, str]:
    """Measure a frame at every position of a scan pattern.

    Everything is checked before anything moves or any document is made: metadata, data keys, limits of both axes,
    overlap, and what the scan would cost in time, dose and data; all faults come in one error. There is a checkpoint
    at every point, and pausing neither loses nor repeats one. However the scan ends, both axes stand still, the
    devices are unstaged, and the run is closed with as many events as were measured: a usable dataset.

    Parameters
    ----------
    detectors : list of Readable
        The detector that delivers the frames first; others (monitors) are read with it.
    y, x : Movable
        Axes that move the sample along the object's rows (y, down) and columns (x, to the right).
    pattern : ScanPattern or dict
        Positions (y, x) of the probe on the sample, metres (object pixels where ``metadata.position_unit`` is
        ``"px"``); absolute, ``pattern.moved(...)`` shifts it. Or its name and arguments, e.g.
        ``{"name": "fermat", "height_m": 6e-6, "width_m": 6e-6, "step_m": 3e-7, "center_m": [0, 0]}``.
    metadata : PtychographyMetadata or dict
        The run's ``ptychography`` block: geometry, data keys, units and signs of the axes, probe.
    md : dict, optional
        More metadata for the start document; wins over what the plan writes.
    per_step : callable, optional
        ``f(detectors, step, pos_cache)``, a plan stub for one point; :func:`move_and_read` where None.
    min_overlap : float or None
        Least linear overlap of neighbouring probes, ``1 - step / diameter``; 0.4 unless told. None for no check;
        there is none either where ``metadata.probe_diameter_m`` is not known.
    limits : ScanLimits or dict, optional
        What the scan may cost, e.g. ``{"max_seconds": 3600, "max_dose_gy": 1e7}``; those of the settings where None.
    return_to_start : bool
        Whether the axes go back to where they were, after an abort too.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    PlanError
        With all faults, before anything has moved.

    Examples
    --------
    >>> from ptycho_bluesky.devices import simulated_beamline
    >>> b = simulated_beamline()
    >>> RE(ptycho_scan([b.detector], b.stage.y, b.stage.x, b.pattern, metadata=b.metadata))  # doctest: +SKIP
    """
    scan = Scan(
        list(detectors),
        y,
        x,
        pattern_from(pattern),
        metadata_from(metadata),
        md or {},
        limits_from(limits),
        min_overlap,
    )
    return (yield from run_steps(scan, "ptycho_scan", per_step, return_to_start))


def run_steps(
    scan: Scan, plan_name: str, per_step: Callable[..., Generator[Any, Any, Any]] | None, return_to_start: bool
) -> Generator[Any, Any, str]:
    """Check a step scan, measure it as one run, and return its uid."""
    detectors, y, x = scan.detectors, scan.y, scan.x
    start = yield from checked(scan, plan_name)
    start["plan_args"] |= {
        "per_step": repr(per_step),
        "min_overlap": scan.min_overlap,
        "return_to_start": return_to_start,
    }
    start |= scan.md
    positions = device_positions(scan.pattern, scan.metadata)
    step, pos_cache = per_step or move_and_read, defaultdict[Any, Any](lambda: None)

    def points() -> Generator[Any, Any, None]:
        for row, column in positions.tolist():
            yield from step(detectors, {y: row, x: column}, pos_cache)

    plan = save_once_wrapper(points())
    plan = bpp.contingency_wrapper(plan, except_plan=lambda _: halt([y, x]))
    plan = bpp.stage_wrapper(bpp.run_wrapper(plan, md=start), [*detectors, y, x])
    if return_to_start:
        plan = bpp.reset_positions_wrapper(plan, [y, x])
    return str((yield from plan))
