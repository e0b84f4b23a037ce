"""Campaigns along one axis: angles, energies, defocus, time."""

# No "from __future__ import annotations" here: the queue server reads the annotations, and cannot as strings.

import time
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, Literal

import bluesky.plan_stubs as bps
from bluesky.protocols import Flyable, Movable, Readable

from ptycho_bluesky.config import ScanLimits
from ptycho_bluesky.experiment import POSITION_UNITS_M, PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._annotations import for_queue_server
from ptycho_bluesky.plans._arguments import pattern_from
from ptycho_bluesky.plans._campaign import Campaign, Step
from ptycho_bluesky.plans._scan import MIN_OVERLAP

__all__ = ["ptycho_energies", "ptycho_focus", "ptycho_series", "ptycho_tomo"]

KEV = {"keV": 1.0, "eV": 1e-3}


@for_queue_server
def ptycho_tomo(
    detectors: Sequence[Readable],
    y: Movable,
    x: Movable,
    rotation: Movable,
    pattern: ScanPattern | dict[str, Any],
    *,
    angles_deg: Sequence[float],
    metadata: PtychographyMetadata | dict[str, Any],
    flyer: Flyable | None = None,
    exposure_s: float | None = None,
    period_s: float | None = None,
    md: dict[str, Any] | None = None,
    min_overlap: float | None = MIN_OVERLAP,
    limits: ScanLimits | dict[str, Any] | None = None,
    first_index: int = 0,
) -> Generator[Any, Any, tuple[str, ...]]:
    """Measure a scan at each angle: a tomogram, one run a view.

    All views are checked before the first moves. The runs share ``ptychography.campaign.uid``; its axis is
    ``rotation_deg``.

    Parameters
    ----------
    detectors : list of Readable
        As for :func:`ptycho_scan`, or for :func:`ptycho_fly` where there is a flyer.
    y, x : Movable
        Axes that move the sample along the object's rows (y, down) and columns (x, to the right).
    rotation : Movable
        Turns the sample, degrees.
    pattern : ScanPattern or dict
        As for :func:`ptycho_scan`, the same in all views.
    angles_deg : list of float
        Views in their order, degrees.
    metadata : PtychographyMetadata or dict
        As for :func:`ptycho_scan`; ``rotation_deg`` is filled. A ``campaign`` with a ``uid`` goes on with that one.
    flyer : Flyable, optional
        Measures each scan in flight; in steps where None.
    exposure_s : float, optional
        Of a frame, seconds; ``metadata.exposure_s`` where None.
    period_s : float, optional
        From frame to frame of a fly scan, seconds; the exposure where None.
    md : dict, optional
        More metadata for all start documents.
    min_overlap : float or None
        As for :func:`ptycho_scan`.
    limits : ScanLimits or dict, optional
        What the campaign as a whole may cost; those of the settings where None.
    first_index : int
        Index of the first scan to measure: above 0 to go on with an aborted campaign.

    Returns
    -------
    tuple of str
        The runs' uids.

    Raises
    ------
    PlanError
        With all faults, before anything has moved.
    """
    common = metadata, flyer, exposure_s, period_s, md, min_overlap, limits, first_index
    campaign = Campaign("ptycho_tomo", "rotation_deg", detectors, y, x, *common)
    scanned, block = pattern_from(pattern), campaign.block()
    steps = [
        Step(float(a), scanned, block.model_copy(update={"rotation_deg": float(a)}), {rotation: float(a)})
        for a in angles_deg
    ]
    return (yield from campaign.run(steps, [(rotation, "deg", "rotation")]))


@for_queue_server
def ptycho_energies(
    detectors: Sequence[Readable],
    y: Movable,
    x: Movable,
    energy: Movable,
    pattern: ScanPattern | dict[str, Any],
    *,
    energies_kev: Sequence[float],
    metadata: PtychographyMetadata | dict[str, Any],
    energy_unit: Literal["keV", "eV"] = "keV",
    focus: Movable | None = None,
    focus_positions: Sequence[float] | None = None,
    flyer: Flyable | None = None,
    exposure_s: float | None = None,
    period_s: float | None = None,
    md: dict[str, Any] | None = None,
    min_overlap: float | None = MIN_OVERLAP,
    limits: ScanLimits | dict[str, Any] | None = None,
    first_index: int = 0,
) -> Generator[Any, Any, tuple[str, ...]]:
    """Measure a scan at each photon energy: spectro-ptychography, one run an energy.

    The campaign's axis is ``energy_kev``, and ``geometry.energy_kev`` of each run is its energy. A zone plate's focal
    length grows with the energy: give its axis, and a position for each energy.

    Parameters
    ----------
    detectors : list of Readable
        As for :func:`ptycho_tomo`.
    y, x : Movable
        Axes that move the sample along the object's rows (y, down) and columns (x, to the right).
    energy : Movable
        Monochromator.
    pattern : ScanPattern or dict
        As for :func:`ptycho_scan`, the same at all energies.
    energies_kev : list of float
        In their order, keV.
    metadata : PtychographyMetadata or dict
        As for :func:`ptycho_scan`, with a geometry, whose energy is filled.
    energy_unit : str
        That `energy` is set in: keV or eV.
    focus : Movable, optional
        Axis of the optics that keeps the sample in its place relative to the focus.
    focus_positions : list of float, optional
        One for each energy, in the axis's own unit.
    flyer : Flyable, optional
        As for :func:`ptycho_tomo`.
    exposure_s : float, optional
        As for :func:`ptycho_tomo`.
    period_s : float, optional
        As for :func:`ptycho_tomo`.
    md : dict, optional
        More metadata for all start documents.
    min_overlap : float or None
        As for :func:`ptycho_scan`.
    limits : ScanLimits or dict, optional
        What the campaign as a whole may cost; those of the settings where None.
    first_index : int
        As for :func:`ptycho_tomo`.

    Returns
    -------
    tuple of str
        The runs' uids.

    Raises
    ------
    PlanError
        With all faults, before anything has moved.
    """
    common = metadata, flyer, exposure_s, period_s, md, min_overlap, limits, first_index
    campaign = Campaign("ptycho_energies", "energy_kev", detectors, y, x, *common)
    scanned, block, faults = pattern_from(pattern), campaign.block(), []
    if energy_unit not in KEV:
        faults.append(f"energy_unit is {energy_unit!r}; allowed are keV and eV")
    if block.geometry is None:
        faults.append("metadata has no geometry; give one, its energy is filled in")
    if any(not 0 < e <= 1000 for e in energies_kev):
        faults.append(f"energies_kev are {list(energies_kev)[:5]} ...; allowed is above 0 up to 1000 keV")
    if (focus is None) != (focus_positions is None) or len(focus_positions or energies_kev) != len(energies_kev):
        faults.append(f"focus and focus_positions go together, one position for each of {len(energies_kev)} energies")
    steps = []
    for index, e in enumerate(map(float, energies_kev)):
        geometry = None if block.geometry is None else block.geometry.model_copy(update={"energy_kev": e})
        moves = {energy: e / KEV.get(energy_unit, 1.0)}
        if focus is not None and focus_positions is not None and index < len(focus_positions):
            moves[focus] = float(focus_positions[index])
        steps.append(Step(e, scanned, block.model_copy(update={"geometry": geometry}), moves))
    return (yield from campaign.run(steps, [(energy, energy_unit, "energy"), (focus, "", "focus")], faults))


@for_queue_server
def ptycho_focus(
    detectors: Sequence[Readable],
    y: Movable,
    x: Movable,
    focus: Movable,
    pattern: ScanPattern | dict[str, Any],
    *,
    defoci_m: Sequence[float],
    metadata: PtychographyMetadata | dict[str, Any],
    focus_unit: Literal["m", "mm", "um", "nm"] = "um",
    focus_zero: float = 0.0,
    focus_sign: Literal[-1, 1] = 1,
    flyer: Flyable | None = None,
    exposure_s: float | None = None,
    period_s: float | None = None,
    md: dict[str, Any] | None = None,
    min_overlap: float | None = MIN_OVERLAP,
    limits: ScanLimits | dict[str, Any] | None = None,
    first_index: int = 0,
) -> Generator[Any, Any, tuple[str, ...]]:
    """Measure a scan at each defocus: the probe at several places along the beam, one run a place.

    The campaign's axis is ``defocus_m``, and so is ``probe.defocus_m`` of each run. The probe's diameter changes with
    the defocus: it is only kept, and the overlap only checked, at the defocus that the metadata give.

    Parameters
    ----------
    detectors : list of Readable
        As for :func:`ptycho_tomo`.
    y, x : Movable
        Axes that move the sample along the object's rows (y, down) and columns (x, to the right).
    focus : Movable
        Moves the sample, or the optics, along the beam.
    pattern : ScanPattern or dict
        As for :func:`ptycho_scan`, the same at all defoci.
    defoci_m : list of float
        From the focus to the sample, positive downstream, metres, in their order.
    metadata : PtychographyMetadata or dict
        As for :func:`ptycho_scan`; ``probe.defocus_m`` is filled where there is a probe.
    focus_unit : str
        That `focus` is set in.
    focus_zero : float
        Position of `focus` at which the sample is in the focus, in its unit.
    focus_sign : int
        -1 where `focus` counts against the defocus: an axis that moves the optics downstream.
    flyer : Flyable, optional
        As for :func:`ptycho_tomo`.
    exposure_s : float, optional
        As for :func:`ptycho_tomo`.
    period_s : float, optional
        As for :func:`ptycho_tomo`.
    md : dict, optional
        More metadata for all start documents.
    min_overlap : float or None
        As for :func:`ptycho_scan`.
    limits : ScanLimits or dict, optional
        What the campaign as a whole may cost; those of the settings where None.
    first_index : int
        As for :func:`ptycho_tomo`.

    Returns
    -------
    tuple of str
        The runs' uids.

    Raises
    ------
    PlanError
        With all faults, before anything has moved.
    """
    common = metadata, flyer, exposure_s, period_s, md, min_overlap, limits, first_index
    campaign = Campaign("ptycho_focus", "defocus_m", detectors, y, x, *common)
    scanned, block, faults = pattern_from(pattern), campaign.block(), []
    if focus_unit not in POSITION_UNITS_M or focus_sign not in (-1, 1):
        faults.append(f"focus_unit is {focus_unit!r}, allowed are m, mm, um, nm; focus_sign {focus_sign}, 1 or -1")
    unit = POSITION_UNITS_M.get(focus_unit, 1.0)
    steps = []
    for defocus in map(float, defoci_m):
        probe, diameter = block.probe, block.probe_diameter_m
        if probe is not None and probe.defocus_m != defocus:
            probe, diameter = probe.model_copy(update={"defocus_m": defocus}), None
        changed = block.model_copy(update={"probe": probe, "probe_diameter_m": diameter})
        steps.append(Step(defocus, scanned, changed, {focus: focus_zero + focus_sign * defocus / unit}))
    return (yield from campaign.run(steps, [(focus, focus_unit, "focus")], faults))


@for_queue_server
def ptycho_series(
    detectors: Sequence[Readable],
    y: Movable,
    x: Movable,
    pattern: ScanPattern | dict[str, Any],
    *,
    count: int,
    interval_s: float = 0.0,
    metadata: PtychographyMetadata | dict[str, Any],
    flyer: Flyable | None = None,
    exposure_s: float | None = None,
    period_s: float | None = None,
    md: dict[str, Any] | None = None,
    min_overlap: float | None = MIN_OVERLAP,
    limits: ScanLimits | dict[str, Any] | None = None,
    first_index: int = 0,
) -> Generator[Any, Any, tuple[str, ...]]:
    """Measure the same scan again and again: a sample that changes, one run a time.

    The campaign's axis is ``time_s``, seconds after the begin of the first scan as planned. A scan that takes longer
    than the interval is followed by the next at once.

    Parameters
    ----------
    detectors : list of Readable
        As for :func:`ptycho_tomo`.
    y, x : Movable
        Axes that move the sample along the object's rows (y, down) and columns (x, to the right).
    pattern : ScanPattern or dict
        As for :func:`ptycho_scan`, the same each time.
    count : int
        Number of scans.
    interval_s : float
        From the begin of a scan to that of the next, seconds; 0 for one after the other.
    metadata : PtychographyMetadata or dict
        As for :func:`ptycho_scan`.
    flyer : Flyable, optional
        As for :func:`ptycho_tomo`.
    exposure_s : float, optional
        As for :func:`ptycho_tomo`.
    period_s : float, optional
        As for :func:`ptycho_tomo`.
    md : dict, optional
        More metadata for all start documents.
    min_overlap : float or None
        As for :func:`ptycho_scan`.
    limits : ScanLimits or dict, optional
        What the campaign as a whole may cost; those of the settings where None.
    first_index : int
        As for :func:`ptycho_tomo`.

    Returns
    -------
    tuple of str
        The runs' uids.

    Raises
    ------
    PlanError
        With all faults, before anything has moved.
    """
    common = metadata, flyer, exposure_s, period_s, md, min_overlap, limits, first_index
    campaign = Campaign("ptycho_series", "time_s", detectors, y, x, *common)
    scanned, block = pattern_from(pattern), campaign.block()
    faults = [] if interval_s >= 0 else [f"interval_s is {interval_s}; it must not be negative"]
    began: list[float] = []

    def until(seconds: float) -> Generator[Any, Any, None]:
        if not began:
            began.append(time.monotonic() - seconds)
        rest = began[0] + seconds - time.monotonic()
        if rest > 0:
            yield from bps.sleep(rest)

    times = [index * interval_s for index in range(max(0, count))]
    steps = [Step(t, scanned, block, wait=partial(until, t)) for t in times]
    return (yield from campaign.run(steps, faults=faults, interval_s=interval_s))
