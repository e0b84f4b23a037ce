"""What a scan would cost, before it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptycho_bluesky.errors import PlanError, report
from ptycho_bluesky.experiment import BeamInfo, EstimateInfo, PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._arguments import metadata_from, overlap_of, pattern_from

__all__ = ["TURN_S", "ScanEstimate", "estimate_scan", "info_of", "sum_of", "told"]

KEV_J = 1.602176634e-16

TURN_S = 0.2
"""Run-up and turn-round of a fly line, where the flyer has no attribute ``turn_s`` that says better; seconds."""


@dataclass(frozen=True)
class ScanEstimate:
    """Time, dose, data and overlap of a scan; None where something needed for it was not given."""

    points: int
    """Positions, and so frames."""

    seconds: float | None
    """Exposures, moves and overhead."""

    photons: float | None
    """That meet the sample, all frames together."""

    fluence_photons_m2: float | None
    """Photons per square metre of the scanned field."""

    data_bytes: int | None
    """Of the frames, uncompressed."""

    overlap: float | None
    """Linear overlap of neighbouring probes."""

    step: float
    """Median distance of neighbours, metres (or object pixels)."""

    extent: tuple[float, float]
    """Height and width of the box of all positions, metres (or object pixels)."""

    unit: str = "m"
    """Of `step` and `extent`: ``"m"`` or ``"px"``."""

    dose_gy: float | None = None
    """Absorbed energy per mass of a thin sample, gray."""

    runs: int = 1
    """Scans that were added up."""

    def __str__(self) -> str:
        scale, unit = (1e6, "um") if self.unit == "m" else (1.0, "px")
        height, width = (side * scale for side in self.extent)
        parts = [f"{self.points} points over {height:.3g} x {width:.3g} {unit}, step {self.step * scale:.3g} {unit}"]
        if self.runs > 1:
            parts.insert(0, f"{self.runs} scans")
        if self.seconds is not None:
            parts.append(_duration(self.seconds))
        if self.overlap is not None:
            parts.append(f"overlap {self.overlap:.0%}")
        if self.photons is not None:
            parts.append(f"{self.photons:.2g} photons")
        if self.fluence_photons_m2 is not None:
            parts.append(f"{self.fluence_photons_m2 * 1e-12:.2g} photons/um^2")
        if self.dose_gy is not None:
            parts.append(f"{self.dose_gy:.2g} Gy")
        if self.data_bytes is not None:
            parts.append(f"{self.data_bytes / 1e6:.4g} MB")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.1f} s" if minutes else f"{rest:.1f} s"


def sum_of(parts: Sequence[ScanEstimate], *, same_place: bool, interval_s: float = 0.0) -> ScanEstimate:
    """Return the sum of several scans: of the same place, whose dose adds up, or of places side by side."""

    def total(values: Sequence[Any]) -> Any:
        return None if None in values else sum(values)

    def worst(values: Sequence[Any]) -> Any:
        return None if None in values else max(values)

    fluences, doses = [p.fluence_photons_m2 for p in parts], [p.dose_gy for p in parts]
    each, overlaps = [p.seconds for p in parts], [p.overlap for p in parts]
    return ScanEstimate(
        points=sum(p.points for p in parts),
        seconds=total([*(None if s is None else max(s, interval_s) for s in each[:-1]), each[-1]]),
        photons=total([p.photons for p in parts]),
        fluence_photons_m2=total(fluences) if same_place else worst(fluences),
        data_bytes=total([p.data_bytes for p in parts]),
        overlap=None if None in overlaps else min(o for o in overlaps if o is not None),
        step=max(p.step for p in parts),
        extent=(max(p.extent[0] for p in parts), max(p.extent[1] for p in parts)),
        unit=parts[0].unit,
        dose_gy=total(doses) if same_place else worst(doses),
        runs=sum(p.runs for p in parts),
    )


def estimate_scan(
    pattern: ScanPattern | Mapping[str, Any],
    metadata: PtychographyMetadata | Mapping[str, Any],
    *,
    exposure_s: float | None = None,
    period_s: float | None = None,
    photons_per_frame: float | None = None,
    frame_shape: tuple[int, int] | None = None,
    bytes_per_pixel: int = 2,
    velocity: float | None = None,
    settling_time_s: float = 0.0,
    overhead_s: float = 0.005,
    turn_s: float = TURN_S,
) -> ScanEstimate:
    """Return what a scan would take and give; nothing moves.

    The dose is that of a thin sample, ``fluence * energy * mass attenuation`` (Howells et al., J. Electron Spectrosc.
    170, 4 (2009)), averaged over the scanned field.

    Parameters
    ----------
    pattern, metadata:
        As for :func:`ptycho_scan`; the dose needs ``metadata.sample_mass_attenuation_m2_kg`` and the energy.
    exposure_s:
        Of a frame, seconds; ``metadata.exposure_s`` where None.
    period_s:
        From frame to frame of a fly scan, seconds; ``metadata.period_s`` where None, and a step scan where that is
        None too.
    photons_per_frame:
        That meet the sample in each exposure; ``metadata.beam.flux_photons_s * exposure`` where None.
    frame_shape:
        (H, W) of a frame; None where not known.
    bytes_per_pixel:
        2 for uint16.
    velocity:
        Of each axis, metres (or object pixels) per second; None for moves that take no time.
    settling_time_s:
        After each move of a step scan, seconds.
    overhead_s:
        Of software, per point of a step scan, seconds; about 5 ms with the RunEngine.
    turn_s:
        Run-up and turn-round of a line of a fly scan, seconds.

    Raises
    ------
    PlanError
        When the exposure is not known, or a number is out of range.
    """
    pattern, metadata = pattern_from(pattern), metadata_from(metadata)
    exposure = metadata.exposure_s if exposure_s is None else exposure_s
    _check(exposure_s=exposure, period_s=period_s, velocity=velocity, photons_per_frame=photons_per_frame)
    return told(
        pattern,
        metadata.model_copy(update={"exposure_s": exposure, "period_s": period_s or metadata.period_s}),
        photons_per_frame=photons_per_frame,
        frame_shape=frame_shape,
        bytes_per_pixel=bytes_per_pixel,
        velocity=velocity,
        settling_time_s=settling_time_s,
        overhead_s=overhead_s,
        turn_s=turn_s,
    )


def told(
    pattern: ScanPattern,
    metadata: PtychographyMetadata,
    *,
    photons_per_frame: float | None = None,
    frame_shape: tuple[int, int] | None = None,
    bytes_per_pixel: int = 2,
    velocity: float | None = None,
    settling_time_s: float = 0.0,
    overhead_s: float = 0.005,
    turn_s: float = TURN_S,
) -> ScanEstimate:
    """Return the estimate with None for all that is not known; arguments as for :func:`estimate_scan`."""
    count, exposure, period = len(pattern), metadata.exposure_s, metadata.period_s
    flux, coefficient = (metadata.beam or BeamInfo()).flux_photons_s, metadata.sample_mass_attenuation_m2_kg
    lengths, diameter = metadata.position_unit != "px", metadata.probe_diameter_m
    seconds = None
    if period is not None:
        seconds = count * period + turn_s * max(1, len(pattern.lines))
    elif exposure is not None:
        legs = np.abs(np.diff(pattern.positions, axis=0)).max(axis=1).sum() if count > 1 else 0.0  # both axes at a time
        moving = 0.0 if velocity is None else float(legs) / velocity
        seconds = count * (exposure + settling_time_s + overhead_s) + moving
    per_frame = photons_per_frame
    if per_frame is None and flux is not None and exposure is not None:
        per_frame = flux * exposure
    fluence = dose = None
    if per_frame is not None and lengths and diameter is not None:
        fluence = pattern.fluence_photons_m2(per_frame, diameter)
        if coefficient is not None and metadata.geometry is not None:
            dose = fluence * metadata.geometry.energy_kev * KEV_J * coefficient
    return ScanEstimate(
        points=count,
        seconds=seconds,
        photons=None if per_frame is None else per_frame * count,
        fluence_photons_m2=fluence,
        data_bytes=None if frame_shape is None else count * frame_shape[0] * frame_shape[1] * bytes_per_pixel,
        overlap=overlap_of(pattern, metadata),
        step=pattern.step_m(),
        extent=pattern.extent_m,
        unit="m" if lengths else "px",
        dose_gy=dose,
    )


def info_of(estimate: ScanEstimate) -> EstimateInfo:
    """Return the estimate as the run's metadata hold it."""
    return EstimateInfo(**{name: getattr(estimate, name) for name in EstimateInfo.model_fields})


def _check(exposure_s: float | None, **optional: float | None) -> None:
    faults = [
        f"{name} is {value}; it must be above 0" for name, value in optional.items() if value is not None and value <= 0
    ]
    if exposure_s is None:
        faults.append("the exposure is not known; give exposure_s, or metadata with exposure_s")
    elif not exposure_s > 0:
        faults.append(f"exposure_s is {exposure_s}; it must be above 0")
    if faults:
        raise PlanError(report("estimate of a scan", faults))
