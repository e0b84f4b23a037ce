"""The plan of ``s.scan(...)``: this beamline's devices and metadata filled in, sizes in micrometres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import ScanPattern

if TYPE_CHECKING:
    from ptycho_bluesky._session._session import Session

__all__ = ["scan_plan"]

OVERLAP = 0.7
"""Linear overlap of neighbouring probes where no step is told."""


def scan_plan(
    session: Session,
    pattern: ScanPattern | dict[str, Any] | None = None,
    *,
    size_um: float | tuple[float, float] | None = None,
    step_um: float | None = None,
    kind: str | None = None,
    center_um: tuple[float, float] = (0.0, 0.0),
    fly: bool = False,
    sample: str = "",
    md: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Return the plan; arguments as for :meth:`Session.scan`.

    Raises
    ------
    PlanError
        When the field is not told, or there is no flyer.
    """
    from ptycho_bluesky.plans import ptycho_fly, ptycho_scan

    chosen = _pattern(session, pattern, size_um, step_um, kind or ("snake" if fly else "fermat"), center_um, fly)
    more = {"metadata": session.metadata, "md": {**({"sample": sample} if sample else {}), **(md or {})}, **options}
    if not fly:
        return ptycho_scan([session.detector], session.stage.y, session.stage.x, chosen, **more)
    if session.flyer is None:
        raise PlanError("this beamline has no flyer; measure in steps: s.scan(..., fly=False)")
    return ptycho_fly([session.detector], session.flyer, chosen, **more)


def _pattern(
    session: Session,
    pattern: ScanPattern | dict[str, Any] | None,
    size_um: float | tuple[float, float] | None,
    step_um: float | None,
    kind: str,
    center_um: tuple[float, float],
    fly: bool,
) -> ScanPattern | dict[str, Any]:
    own: ScanPattern | None = session.pattern
    if pattern is not None:
        if size_um is not None or step_um is not None:
            raise PlanError("the scan has a pattern and a size; give one of them")
        return pattern
    if size_um is None and step_um is None and own is not None and not fly:
        return own.moved((center_um[0] * 1e-6, center_um[1] * 1e-6)) if any(center_um) else own
    if size_um is None and own is None:
        raise PlanError("what is to be measured? s.scan(size_um=3), or s.scan(pattern)")
    if size_um is None and own is not None:
        size_um = own.extent_m[0] * 1e6, own.extent_m[1] * 1e6
    height, width = size_um if isinstance(size_um, tuple | list) else (size_um or 0.0, size_um or 0.0)
    diameter = session.metadata.probe_diameter_m
    if step_um is None and diameter is None:
        raise PlanError("the probe's diameter is not known, so the step has to be told: s.scan(..., step_um=0.25)")
    step = step_um * 1e-6 if step_um is not None else (1 - OVERLAP) * float(diameter or 0.0)
    size = {"height_m": float(height) * 1e-6, "width_m": float(width) * 1e-6, "step_m": step}
    return {"name": kind, **size, "center_m": [v * 1e-6 for v in center_um]}
