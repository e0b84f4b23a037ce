"""What a scan may cost: limits from the user or the settings, and what passes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ptycho_bluesky.config import ScanLimits, settings
from ptycho_bluesky.errors import PlanError, report
from ptycho_bluesky.plans._estimate import ScanEstimate

__all__ = ["limit_faults", "limits_from"]

NEEDS = {
    "max_seconds": ("seconds", "s", "metadata.exposure_s"),
    "max_fluence_photons_m2": (
        "fluence_photons_m2",
        "photons/m2",
        "metadata.beam.flux_photons_s, exposure_s and probe_diameter_m",
    ),
    "max_dose_gy": (
        "dose_gy",
        "Gy",
        "metadata.sample_mass_attenuation_m2_kg, beam.flux_photons_s, exposure_s and probe_diameter_m",
    ),
    "max_data_bytes": ("data_bytes", "bytes", "a detector that tells its frames' shape before it is armed"),
}
"""For each limit: what it limits, the unit, and what must be known."""


def limits_from(given: ScanLimits | Mapping[str, Any] | None) -> ScanLimits:
    """Return the limits that `given` is or holds; those of the settings where it is None.

    Raises
    ------
    PlanError
        Naming every key that is unknown or out of range.
    """
    if given is None:
        return settings().limits
    if isinstance(given, ScanLimits):
        return given
    try:
        return ScanLimits.model_validate(given)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        raise PlanError(report("limits of the scan", faults)) from None


def limit_faults(estimate: ScanEstimate, limits: ScanLimits) -> list[str]:
    """Return in plain words which limits a scan would pass, or cannot be checked against."""
    faults = []
    for name, (what, unit, needed) in NEEDS.items():
        allowed, value = getattr(limits, name), getattr(estimate, what)
        if allowed is None:
            continue
        if value is None:
            faults.append(f"limits.{name} is {allowed:g} {unit}, but {what} cannot be told; give {needed}")
        elif value > allowed:
            faults.append(
                f"limits.{name} allows {allowed:g} {unit}, the scan would take {value:.4g} {unit}: make it smaller, "
                "or raise the limit"
            )
    return faults
