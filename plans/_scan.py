"""The step scan: checked before anything moves, paused and aborted without harm."""

# No "from __future__ import annotations" here: the queue server reads the annotations, and cannot as strings.

from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.protocols import Movable, Readable

from ptycho_bluesky.errors import PlanError, report
from ptycho_bluesky.experiment import PatternInfo, PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._arguments import device_positions, metadata_from, overlap_of, pattern_from
from ptycho_bluesky.plans._checks import scan_faults
from ptycho_bluesky.plans._stubs import halt, move_and_read, save_once_wrapper

__all__ = ["MIN_OVERLAP", "ptycho_scan"]

MIN_OVERLAP = 0.4
"""Linear overlap below which a scan is refused: about 0.6 reconstructs best, and much less fails (Bunk et al.,
Ultramicroscopy 108, 481 (2008))."""


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
    return_to_start: bool = False,
) -> Generator[Any, Any, str]:
    """Measure a frame at every position of a scan pattern.

    Everything is checked before anything moves or any document is made: metadata, data keys, limits of both axes and
    overlap; all faults come in one error. There is a checkpoint at every point, and pausing neither loses nor repeats
    one. However the scan ends, both axes stand still, the devices are unstaged, and the run is closed with as many
    events as were measured: a usable dataset.

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
    detectors, pattern, metadata = list(detectors), pattern_from(pattern), metadata_from(metadata)
    overlap = overlap_of(pattern, metadata)
    faults = yield from scan_faults(detectors, y, x, pattern, metadata, md or {}, overlap, min_overlap)
    if faults:
        raise PlanError(report("scan refused, nothing has moved", faults))
    positions = device_positions(pattern, metadata)
    block = metadata.model_copy(update={"pattern": _pattern_info(pattern, overlap)})
    start = _start_metadata(detectors, y, x, pattern, block, positions)
    start["plan_args"] |= {
        "per_step": repr(per_step),
        "min_overlap": min_overlap,
        "return_to_start": return_to_start,
    }
    start |= md or {}
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


def _start_metadata(
    detectors: Sequence[Any],
    y: Any,
    x: Any,
    pattern: ScanPattern,
    metadata: PtychographyMetadata,
    positions: Any,
) -> dict[str, Any]:
    """Return what the start document says of the scan, the way Bluesky's own plans do."""
    hints: dict[str, Any] = {"dimensions": [([key], "primary") for key in metadata.position_keys]}
    start: dict[str, Any] = {
        "plan_name": "ptycho_scan",
        "plan_args": {
            "detectors": list(map(repr, detectors)),
            "y": repr(y),
            "x": repr(x),
            "pattern": {"name": pattern.name, **pattern.parameters},
        },
        "plan_pattern": pattern.name,
        "detectors": [device.name for device in detectors],
        "motors": (y.name, x.name),
        "num_points": len(pattern),
        "num_intervals": len(pattern) - 1,
        "extents": tuple(_extents(pattern, positions)),
        "hints": hints,
        "ptychography": metadata.to_start(),
    }
    if pattern.shape is not None:
        hints["gridding"] = "rectilinear"
        start |= {"shape": tuple(pattern.shape), "snaking": (False, pattern.snaking)}
    return start


def _pattern_info(pattern: ScanPattern, overlap: float | None) -> PatternInfo:
    return PatternInfo(name=pattern.name, parameters=pattern.parameters, num_points=len(pattern), overlap=overlap)


def _extents(pattern: ScanPattern, positions: Any) -> list[list[float]]:
    """Return first and last value of y and x: of a grid in the order of its rows and columns, else from low to high."""
    if pattern.shape is None:
        return [[float(axis.min()), float(axis.max())] for axis in positions.T]
    columns = pattern.shape[1]
    ends: Mapping[int, Any] = {0: positions[[0, -1], 0], 1: positions[[0, columns - 1], 1]}
    return [[float(v) for v in ends[axis]] for axis in (0, 1)]
