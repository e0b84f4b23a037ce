"""Several scans that belong together: checked as a whole, one run each, tied by their metadata."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import Msg

from ptycho_bluesky.config import ScanLimits
from ptycho_bluesky.errors import PlanError, report
from ptycho_bluesky.experiment import PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._arguments import metadata_from
from ptycho_bluesky.plans._checks import axis_faults
from ptycho_bluesky.plans._estimate import ScanEstimate, sum_of
from ptycho_bluesky.plans._fly import flying, run_flights
from ptycho_bluesky.plans._limits import limit_faults, limits_from
from ptycho_bluesky.plans._scan import MIN_OVERLAP, run_steps
from ptycho_bluesky.plans._start import Scan, faults_of, tell

__all__ = ["Campaign", "Step"]

Plan = Generator[Any, Any, Any]


@dataclass(frozen=True)
class Step:
    """One scan of a campaign."""

    value: float
    """On the campaign's axis."""
    pattern: ScanPattern
    metadata: PtychographyMetadata
    moves: Mapping[Any, float] = field(default_factory=dict)
    """Axes and where they go before this scan, in their own unit."""
    more: Mapping[str, int | float | str] = field(default_factory=dict)
    """Further keys of the campaign's metadata."""
    wait: Callable[[], Plan] | None = None
    """A plan stub before this scan."""


@dataclass(frozen=True)
class Campaign:
    """What all campaigns are given alike; see :func:`ptycho_tomo` for what is not said here.

    ``campaign.run(steps)`` is a plan: it checks all steps and then measures them, one run each.
    """

    plan_name: str
    """Of the runs."""
    axis: str
    """What the campaign goes along, e.g. ``"rotation_deg"``."""
    detectors: Sequence[Any]
    y: Any
    x: Any
    metadata: PtychographyMetadata | Mapping[str, Any]
    flyer: Any = None
    exposure_s: float | None = None
    period_s: float | None = None
    md: dict[str, Any] | None = None
    min_overlap: float | None = MIN_OVERLAP
    limits: ScanLimits | dict[str, Any] | None = None
    first_index: int = 0
    same_place: bool = True
    """Whether the scans are of the same place, so that their dose adds up."""
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    """Of the campaign, where the metadata give none."""

    def block(self) -> PtychographyMetadata:
        """Return the metadata that all scans have in common."""
        block = metadata_from(self.metadata)
        return block if self.exposure_s is None else block.model_copy(update={"exposure_s": self.exposure_s})

    def run(
        self,
        steps: Sequence[Step],
        axes: Sequence[tuple[Any, str, str]] = (),
        faults: Sequence[str] = (),
        interval_s: float = 0.0,
    ) -> Generator[Any, Any, tuple[str, ...]]:
        """Check all scans, then measure one after the other, from `first_index` on; return the runs' uids.

        Parameters
        ----------
        steps:
            The scans.
        axes:
            Axes that move between scans, with their unit and role, to be checked for all steps.
        faults:
            What the plan itself has found.
        interval_s:
            From the begin of a scan to that of the next, seconds; 0 where one follows the other.

        Raises
        ------
        PlanError
            With all faults, before anything has moved.
        """
        limits, found = limits_from(self.limits), list(faults)
        if not steps and not found:
            found.append(f"{self.axis}: there is nothing to measure; give at least one")
        if not 0 <= self.first_index < max(1, len(steps)):
            found.append(f"first_index is {self.first_index}; allowed is 0 to {len(steps) - 1}")
        for axis, unit, role in axes:
            values = [step.moves[axis] for step in steps if axis in step.moves]
            if values:
                found += yield from axis_faults(axis, values, unit, role)
        scans = list(self._scans(steps, limits))
        estimates = yield from self._checked(scans, found)
        if estimates:
            total = sum_of(estimates, same_place=self.same_place, interval_s=interval_s)
            found += limit_faults(total, limits)
        if found:
            raise PlanError(report(f"{self.plan_name} refused, nothing has moved", found))
        tell(f"{self.plan_name}: {total}")
        uids = []
        for step, scan in list(zip(steps, scans, strict=True))[self.first_index :]:
            yield Msg("checkpoint")
            if step.wait is not None:
                yield from step.wait()
            if step.moves:
                yield from bps.mv(*(item for pair in step.moves.items() for item in pair))
            index = scan.metadata.campaign["index"]
            tell(f"{self.plan_name}: {int(index) + 1} of {len(steps)}, {self.axis} = {step.value:g}")
            uids.append((yield from _measured(replace(scan, quiet=True), self.plan_name)))
            yield Msg("checkpoint")
        return tuple(uids)

    def _scans(self, steps: Sequence[Step], limits: ScanLimits) -> Iterator[Scan]:
        least = [v for v in (self.min_overlap, limits.min_overlap) if v is not None]
        for index, step in enumerate(steps):
            ties = {
                "uid": step.metadata.campaign.get("uid") or self.uid,
                "axis": self.axis,
                "index": index,
                "value": step.value,
                "count": len(steps),
            }
            campaign = {**step.metadata.campaign, **ties, **step.more}
            block = step.metadata.model_copy(update={"campaign": campaign})
            whole = ScanLimits()  # limits hold for the campaign as a whole
            overlap = max(least, default=None)
            if self.flyer is None:
                md = self.md or {}
                yield Scan(list(self.detectors), self.y, self.x, step.pattern, block, md, whole, overlap)
            else:
                chosen = self.md, whole, overlap, self.exposure_s, self.period_s
                yield flying(list(self.detectors), self.flyer, step.pattern, block, *chosen)

    def _checked(self, scans: Sequence[Scan], found: list[str]) -> Generator[Any, Any, list[ScanEstimate]]:
        """Add the faults of all scans to `found`, each once, and return their estimates; a pattern is checked once."""
        known: dict[tuple[int, float | None], ScanEstimate] = {}
        estimates = []
        for scan in scans:
            key = (id(scan.pattern), scan.metadata.probe_diameter_m)
            if key not in known:
                faults, known[key] = yield from faults_of(scan)
                found += [fault for fault in faults if fault not in found]
            estimates.append(known[key])
        return estimates


def _measured(scan: Scan, plan_name: str) -> Generator[Any, Any, str]:
    if scan.path is None:
        return (yield from run_steps(scan, plan_name, None, False))
    return (yield from run_flights(scan, plan_name))
