"""From arguments to a start document: checked, estimated, told."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ptycho_bluesky.config import ScanLimits
from ptycho_bluesky.errors import PlanError, report
from ptycho_bluesky.experiment import FlyPath, PatternInfo, PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._arguments import device_positions, overlap_of, recipe_of
from ptycho_bluesky.plans._checks import Found, flyer_faults, scan_faults
from ptycho_bluesky.plans._estimate import TURN_S, ScanEstimate, info_of, told
from ptycho_bluesky.plans._limits import limit_faults

__all__ = ["LISTENING", "Scan", "checked", "faults_of", "start_of", "tell"]

LISTENING: ContextVar[list[str] | None] = ContextVar("LISTENING", default=None)
"""Where a dry run keeps what a plan tells."""


@dataclass(frozen=True)
class Scan:
    """One scan as it is to be: what :func:`ptycho_scan` and :func:`ptycho_fly` have in common."""

    detectors: list[Any]
    y: Any
    x: Any
    pattern: ScanPattern
    """Positions of this run."""
    metadata: PtychographyMetadata
    md: Mapping[str, Any]
    limits: ScanLimits
    min_overlap: float | None
    flyer: Any = None
    path: FlyPath | None = None
    quiet: bool = False
    """Whether the campaign has told what there is to tell."""
    whole: ScanPattern | None = None
    """The pattern of which `pattern` is the rest; None where it is all."""


def tell(text: str) -> None:
    """Say what is about to happen where the user sees it; standard output is left to results."""
    heard = LISTENING.get()
    if heard is None:
        sys.stderr.write(f"{text}\n")
    else:
        heard.append(text)


def faults_of(scan: Scan) -> Generator[Any, Any, tuple[list[str], ScanEstimate]]:
    """Return, as a plan, all faults of a scan in plain words, and what it would cost; nothing moves."""
    pattern, metadata, found = scan.pattern, scan.metadata, Found()
    found.faults += metadata.missing()
    if "ptychography" in scan.md:
        found.faults.append("md has the key 'ptychography', which the plan fills itself; give its contents as metadata")
    overlap = overlap_of(scan.whole or pattern, metadata)
    least = max((v for v in (scan.min_overlap, scan.limits.min_overlap) if v is not None), default=None)
    if least is not None and overlap is not None and overlap < least:
        diameter_um = (metadata.probe_diameter_m or 0.0) * 1e6
        found.faults.append(
            f"neighbouring probes overlap by {overlap:.0%} (their diameter is {diameter_um:.3g} um); at least "
            f"{least:.0%} is required: a step of {(1 - least) * diameter_um:.3g} um or less, a larger probe, "
            "or min_overlap=None for no check"
        )
    if scan.path is None:
        yield from scan_faults(scan.detectors, scan.y, scan.x, pattern, metadata, found)
    else:
        yield from flyer_faults(scan.detectors, scan.flyer, pattern, scan.path, metadata, found)
    estimate = told(
        pattern,
        metadata,
        frame_shape=found.frame_shape,
        bytes_per_pixel=found.bytes_per_pixel,
        velocity=found.velocity,
        turn_s=getattr(scan.flyer, "turn_s", TURN_S),
    )
    return found.faults + limit_faults(estimate, scan.limits), estimate


def checked(scan: Scan, plan_name: str) -> Generator[Any, Any, dict[str, Any]]:
    """Return, as a plan, the start document's metadata of a scan without faults, and tell what it will cost.

    Raises
    ------
    PlanError
        With all faults.
    """
    faults, estimate = yield from faults_of(scan)
    if faults:
        raise PlanError(report("scan refused, nothing has moved", faults))
    if not scan.quiet:
        tell(f"{plan_name}: {estimate}")
    return start_of(scan, plan_name, estimate)


def start_of(scan: Scan, plan_name: str, estimate: ScanEstimate) -> dict[str, Any]:
    """Return what the start document says of the scan, the way Bluesky's own plans do."""
    pattern, whole = scan.pattern, scan.whole or scan.pattern
    info = PatternInfo(
        name=whole.name,
        parameters=recipe_of(whole),
        num_points=len(whole),
        overlap=overlap_of(whole, scan.metadata),
    )
    block = scan.metadata.model_copy(update={"pattern": info, "estimate": info_of(estimate)})
    devices = {"flyer": repr(scan.flyer)} if scan.path is not None else {"y": repr(scan.y), "x": repr(scan.x)}
    names = block.position_keys if scan.path is not None else (scan.y.name, scan.x.name)
    hints: dict[str, Any] = {"dimensions": [([key], "primary") for key in block.position_keys]}
    start: dict[str, Any] = {
        "plan_name": plan_name,
        "plan_args": {
            "detectors": list(map(repr, scan.detectors)),
            **devices,
            "pattern": {"name": pattern.name, **pattern.parameters},
        },
        "plan_pattern": pattern.name,
        "detectors": [device.name for device in scan.detectors],
        "motors": names,
        "num_points": len(pattern),
        "num_intervals": len(pattern) - 1,
        "extents": tuple(_extents(pattern, device_positions(pattern, block))),
        "hints": hints,
        "ptychography": block.to_start(),
    }
    if pattern.shape is not None:
        hints["gridding"] = "rectilinear"
        start |= {"shape": tuple(pattern.shape), "snaking": (False, pattern.snaking)}
    return start


def _extents(pattern: ScanPattern, positions: Any) -> list[list[float]]:
    """Return first and last value of y and x: of a grid in the order of its rows and columns, else from low to high."""
    if pattern.shape is None:
        return [[float(axis.min()), float(axis.max())] for axis in positions.T]
    columns = pattern.shape[1]
    ends: Sequence[Any] = (positions[[0, -1], 0], positions[[0, columns - 1], 1])
    return [[float(v) for v in end] for end in ends]
