"""An aborted scan goes on where it stopped."""

# No "from __future__ import annotations" here: the queue server reads the annotations, and cannot as strings.

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from bluesky.protocols import Flyable, Movable, Readable

from ptycho_bluesky.config import ScanLimits
from ptycho_bluesky.errors import PlanError, PtychoError
from ptycho_bluesky.experiment import POSITION_UNITS_M, PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._annotations import for_queue_server
from ptycho_bluesky.plans._arguments import device_positions, metadata_from, pattern_again, pattern_from
from ptycho_bluesky.plans._fly import flying, run_flights
from ptycho_bluesky.plans._limits import limits_from
from ptycho_bluesky.plans._measured import Measured, measured_of
from ptycho_bluesky.plans._scan import MIN_OVERLAP, run_steps
from ptycho_bluesky.plans._start import Scan

__all__ = ["ptycho_resume"]


@for_queue_server
def ptycho_resume(
    detectors: Sequence[Readable],
    y: Movable,
    x: Movable,
    run: str | list[Any],
    *,
    flyer: Flyable | None = None,
    pattern: ScanPattern | dict[str, Any] | None = None,
    metadata: PtychographyMetadata | dict[str, Any] | None = None,
    md: dict[str, Any] | None = None,
    per_step: Callable[..., Generator[Any, Any, Any]] | None = None,
    min_overlap: float | None = MIN_OVERLAP,
    limits: ScanLimits | dict[str, Any] | None = None,
) -> Generator[Any, Any, str]:
    """Measure what an aborted scan has left: the missing positions of the same pattern, as a run that names the first.

    ``ptychography.continues`` is the uid of the first run and ``first_point`` the index at which this one begins; the
    dataset of either is that of both together. A scan can be continued several times.

    Parameters
    ----------
    detectors : list of Readable
        As for :func:`ptycho_scan`, or for :func:`ptycho_fly` where there is a flyer.
    y, x : Movable
        Axes that move the sample along the object's rows (y, down) and columns (x, to the right).
    run : str or list
        Uid of the run (or its beginning) in the catalogue, the run's Tiled client, or its documents as a list of
        (name, document).
    flyer : Flyable, optional
        Goes on in flight; in steps where None.
    pattern : ScanPattern or dict, optional
        That the run was planned with, where its metadata do not tell: a long list of positions.
    metadata : PtychographyMetadata or dict, optional
        Instead of the run's.
    md : dict, optional
        More metadata for the start document.
    per_step : callable, optional
        As for :func:`ptycho_scan`.
    min_overlap : float or None
        As for :func:`ptycho_scan`.
    limits : ScanLimits or dict, optional
        What the rest may cost; those of the settings where None.

    Returns
    -------
    str
        The new run's uid.

    Raises
    ------
    PlanError
        When nothing is missing, the pattern is not known, or the run was not measured at its positions; and as for
        :func:`ptycho_scan`. Nothing has moved then.
    """
    done = _read(run)
    whole = pattern_again(done.block.pattern) if pattern is None and done.block.pattern else None
    if pattern is not None:
        whole = pattern_from(pattern)
    if whole is None:
        raise PlanError(f"run {done.uid[:8]} does not tell all positions of its pattern; give the pattern it had")
    block = done.block if metadata is None else metadata_from(metadata)
    _compare(done, whole, block)
    if done.count >= len(whole):
        raise PlanError(f"run {done.uid[:8]} has all {len(whole)} positions of its pattern; there is nothing to resume")
    ties = {"pattern": None, "estimate": None, "continues": done.uid, "first_point": done.count}
    block, rest, options = block.model_copy(update=ties), whole.part(done.count), limits_from(limits)
    if flyer is not None:
        scan = flying(list(detectors), flyer, rest, block, md, options, min_overlap, None, block.period_s)
        return (yield from run_flights(replace(scan, whole=whole), "ptycho_resume"))
    block = block.model_copy(update={"period_s": None})
    scan = Scan(list(detectors), y, x, rest, block, md or {}, options, min_overlap, whole=whole)
    return (yield from run_steps(scan, "ptycho_resume", per_step, False))


def _read(run: Any) -> Measured:
    try:
        return measured_of(run)
    except PtychoError as error:
        raise PlanError(f"the run cannot be resumed: {error}") from error


def _compare(done: Measured, whole: ScanPattern, block: PtychographyMetadata) -> None:
    """Raise where the run was not measured at the pattern's positions, to within half a step."""
    count = min(len(done.positions), len(whole))
    planned = device_positions(whole, block)[:count]
    far = np.abs(planned - done.positions[:count]).max(axis=1)
    allowed = whole.step_m() / 2 / POSITION_UNITS_M.get(block.position_unit, 1.0)
    worst = int(far.argmax()) if count else 0
    if count and far[worst] > allowed:
        raise PlanError(
            f"point {worst} of run {done.uid[:8]} was measured at {done.positions[worst].tolist()}, the pattern has "
            f"{planned[worst].tolist()} {block.position_unit} there; give the pattern, and the signs, that it had"
        )
