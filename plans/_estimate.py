"""What a scan would cost, before it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptycho_bluesky.errors import PlanError, report
from ptycho_bluesky.experiment import PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._arguments import metadata_from, overlap_of, pattern_from

__all__ = ["ScanEstimate", "estimate_scan"]


@dataclass(frozen=True)
class ScanEstimate:
    """Time, dose, data and overlap of a scan; None where something needed for it was not given."""

    points: int
    """Positions, and so frames."""

    seconds: float
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

    def __str__(self) -> str:
        scale, unit = (1e6, "um") if self.unit == "m" else (1.0, "px")
        height, width = (side * scale for side in self.extent)
        minutes, seconds = divmod(self.seconds, 60)
        parts = [
            f"{self.points} points over {height:.3g} x {width:.3g} {unit}, step {self.step * scale:.3g} {unit}",
            f"{minutes:.0f} min {seconds:.1f} s" if minutes else f"{seconds:.1f} s",
        ]
        if self.overlap is not None:
            parts.append(f"overlap {self.overlap:.0%}")
        if self.photons is not None:
            parts.append(f"{self.photons:.2g} photons")
        if self.fluence_photons_m2 is not None:
            parts.append(f"{self.fluence_photons_m2 * 1e-12:.2g} photons/um^2")
        if self.data_bytes is not None:
            parts.append(f"{self.data_bytes / 1e6:.4g} MB")
        return ", ".join(parts)


def estimate_scan(
    pattern: ScanPattern | Mapping[str, Any],
    metadata: PtychographyMetadata | Mapping[str, Any],
    *,
    exposure_s: float | None = None,
    photons_per_frame: float | None = None,
    frame_shape: tuple[int, int] | None = None,
    bytes_per_pixel: int = 2,
    velocity: float | None = None,
    settling_time_s: float = 0.0,
    overhead_s: float = 0.005,
) -> ScanEstimate:
    """Return what a scan would take and give; nothing moves.

    Parameters
    ----------
    pattern, metadata:
        As for :func:`ptycho_scan`.
    exposure_s:
        Of a frame, seconds; ``metadata.exposure_s`` where None.
    photons_per_frame:
        That meet the sample in each exposure; None where not known.
    frame_shape:
        (H, W) of a frame; None where not known.
    bytes_per_pixel:
        2 for uint16.
    velocity:
        Of each axis, metres (or object pixels) per second; None for moves that take no time.
    settling_time_s:
        After each move, seconds.
    overhead_s:
        Of software, per point, seconds; about 5 ms with the RunEngine.

    Raises
    ------
    PlanError
        When the exposure is not known, or a number is out of range.
    """
    pattern, metadata = pattern_from(pattern), metadata_from(metadata)
    exposure = metadata.exposure_s if exposure_s is None else exposure_s
    _check(exposure_s=exposure, velocity=velocity, photons_per_frame=photons_per_frame)
    legs = np.abs(np.diff(pattern.positions, axis=0)).max(axis=1).sum()  # both axes move at the same time
    moving = 0.0 if velocity is None else float(legs) / velocity
    lengths, diameter = metadata.position_unit != "px", metadata.probe_diameter_m
    known = diameter if lengths and diameter is not None else None
    photons = None if photons_per_frame is None else photons_per_frame * len(pattern)
    fluence = None
    if photons_per_frame is not None and known is not None:
        fluence = pattern.fluence_photons_m2(photons_per_frame, known)
    return ScanEstimate(
        points=len(pattern),
        seconds=len(pattern) * ((exposure or 0.0) + settling_time_s + overhead_s) + moving,
        photons=photons,
        fluence_photons_m2=fluence,
        data_bytes=None if frame_shape is None else len(pattern) * frame_shape[0] * frame_shape[1] * bytes_per_pixel,
        overlap=overlap_of(pattern, metadata),
        step=pattern.step_m(),
        extent=pattern.extent_m,
        unit="m" if lengths else "px",
    )


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
