"""One object that feeds plans, simulators and viewers: an ordered list of scan positions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import PlanError, report

__all__ = ["MOST_POSITIONS", "FloatArray", "Lines", "ScanPattern", "few_enough", "lines_of", "positive"]

FloatArray = npt.NDArray[np.float64]

Lines = tuple[tuple[int, int], ...]

MOST_POSITIONS = 10_000_000
"""A pattern of more is a wrong unit (micrometres where metres are asked for), and would fill the memory."""


@dataclass(frozen=True)
class ScanPattern:
    """An ordered list of scan positions; one object feeds plans, simulators and viewers.

    Attributes
    ----------
    name:
        Name of the family, e.g. ``"fermat"``.
    positions:
        (N, 2) float64, (row, column) = (y, x), metres, the place of the probe's centre on the sample.
    parameters:
        What the pattern was made from, in SI units; goes into the run's metadata.
        :func:`pattern_named` makes the same pattern from it.
    shape:
        (rows, columns) of a gridded pattern, else None.
    snaking:
        True where every second row runs backwards.
    lines:
        Ranges (start, stop) of positions that the stage can pass in steady motion, one after the other and all
        together the whole pattern; empty where there are none, and the pattern cannot be flown.

    Raises
    ------
    PlanError
        When the positions are of another shape or not finite, or the lines leave some out.
    """

    name: str
    positions: FloatArray = field(repr=False)
    parameters: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, int] | None = None
    snaking: bool = False
    lines: Lines = field(default=(), repr=False)

    def __post_init__(self) -> None:
        positions = np.array(self.positions, dtype=np.float64)
        faults = []
        if positions.ndim != 2 or positions.shape[-1] != 2 or not len(positions):
            faults.append(f"positions have shape {positions.shape}; allowed is (N, 2) with N of at least 1")
        elif not np.isfinite(positions).all():
            faults.append(f"{int((~np.isfinite(positions)).any(axis=1).sum())} positions are not finite")
        lines = tuple((int(start), int(stop)) for start, stop in self.lines)
        ends = [0, *(stop for _, stop in lines)]
        starts = [*(start for start, _ in lines), len(positions) if positions.ndim else 0]
        if lines and (starts != ends or any(stop <= start for start, stop in lines)):
            faults.append(f"lines {lines[:3]}... do not follow each other from 0 to {len(positions)}")
        if faults:
            raise PlanError(report(f"scan pattern {self.name!r}", faults))
        positions.setflags(write=False)
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "lines", lines)

    def __len__(self) -> int:
        return len(self.positions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScanPattern):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.name, self.positions.tobytes()))

    @property
    def extent_m(self) -> tuple[float, float]:
        """Height and width of the box around all positions, in metres."""
        height, width = np.ptp(self.positions, axis=0)
        return float(height), float(width)

    @property
    def bounding_box_m(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Corners ((y, x) least, (y, x) greatest) of the box around all positions, in metres."""
        (y0, x0), (y1, x1) = self.positions.min(axis=0), self.positions.max(axis=0)
        return (float(y0), float(x0)), (float(y1), float(x1))

    @property
    def area_m2(self) -> float:
        """Area of the convex hull of all positions, square metres: what the pattern encloses, without the probe.

        Hull by the monotone chain of Andrew, Inf. Process. Lett. 9, 216 (1979).
        """
        points = np.unique(self.positions, axis=0)
        if len(points) < 3:
            return 0.0
        hull = [corner for ordered in (points, points[::-1]) for corner in _chain(ordered.tolist())[:-1]]
        y, x = np.array(hull).T
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)

    @property
    def path_m(self) -> float:
        """Length of the way from the first to the last position, metres."""
        return float(np.hypot(*np.diff(self.positions, axis=0).T).sum()) if len(self) > 1 else 0.0

    def moved(self, center_m: tuple[float, float]) -> ScanPattern:
        """Return the same pattern, moved by `center_m` (y, x)."""
        before = self.parameters.get("center_m", (0.0, 0.0))
        center = [float(b) + float(c) for b, c in zip(before, center_m, strict=True)]
        parameters = {**self.parameters, "center_m": center}
        return replace(self, positions=self.positions + np.asarray(center_m), parameters=parameters)

    def part(self, start: int, stop: int | None = None) -> ScanPattern:
        """Return the positions from index `start` up to, without, `stop`; lines are cut with them."""
        stop = len(self) if stop is None else stop
        cut = ((max(a, start) - start, min(b, stop) - start) for a, b in self.lines)
        return replace(
            self, positions=self.positions[start:stop], shape=None, lines=tuple((a, b) for a, b in cut if a < b)
        )

    def step_m(self) -> float:
        """Return the median distance from a position to its nearest neighbour, in metres (0 for one position).

        Of patterns with more than 2,048 positions, that many are looked at, evenly spread over the scan.
        """
        return self._step_m

    @cached_property
    def _step_m(self) -> float:
        count = len(self)
        if count < 2:
            return 0.0
        order = np.argsort(self.positions[:, 0], kind="stable")
        rows = self.positions[order]
        reach = 3 * float(np.sqrt(np.prod(np.ptp(self.positions, axis=0)) / count))  # some neighbours are within it
        places = np.unique(np.linspace(0, count - 1, min(count, 2048)).astype(int))
        nearest = np.empty(len(places))
        for k, place in enumerate(places):  # in the order of rows: candidates lie side by side
            y, x = rows[place]
            low = int(np.searchsorted(rows[:, 0], y - reach, "left"))
            high = int(np.searchsorted(rows[:, 0], y + reach, "right"))
            found = _nearest(rows[low:high], place - low, y, x)
            nearest[k] = found if found <= reach else _nearest(rows, place, y, x)
        return float(np.median(nearest))

    def overlap(self, probe_diameter_m: float) -> float:
        """Return the linear overlap ``1 - step / diameter`` of neighbouring probes (0 where they do not touch).

        Bunk et al., Ultramicroscopy 108, 481 (2008): about 0.6 reconstructs best.
        """
        positive(probe_diameter_m=probe_diameter_m)
        return max(0.0, 1.0 - self.step_m() / probe_diameter_m)

    def fluence_photons_m2(self, photons_per_frame: float, probe_diameter_m: float) -> float:
        """Return the photons per square metre that the scanned field receives, all frames together.

        The field is that of the positions, wider by `probe_diameter_m` metres.
        """
        positive(probe_diameter_m=probe_diameter_m)
        height, width = (side + probe_diameter_m for side in self.extent_m)
        return photons_per_frame * len(self) / (height * width)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; :meth:`from_dict` gives the same pattern, to the last bit."""
        return {
            "name": self.name,
            "parameters": json.loads(json.dumps(self.parameters)),
            "shape": None if self.shape is None else list(self.shape),
            "snaking": self.snaking,
            "lines": [list(line) for line in self.lines],
            "positions_m": self.positions.tolist(),
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ScanPattern:
        """Return the pattern that :meth:`to_dict` described.

        Raises
        ------
        PlanError
            When keys are missing or unknown, or the positions are faulty.
        """
        known = {"name", "parameters", "shape", "snaking", "lines", "positions_m"}
        if not {"name", "positions_m"} <= given.keys() <= known:
            raise PlanError(f"a pattern has the keys {sorted(known)}, the first two needed; given {sorted(given)}")
        shape = given.get("shape")
        return cls(
            str(given["name"]),
            np.asarray(given["positions_m"], np.float64),
            dict(given.get("parameters", {})),
            None if shape is None else (int(shape[0]), int(shape[1])),
            bool(given.get("snaking", False)),
            tuple((start, stop) for start, stop in given.get("lines", ())),
        )


def _nearest(others: FloatArray, own: int, y: float, x: float) -> float:
    """Return the distance from (y, x) to the nearest of `others`, of which it is number `own`; infinite if alone."""
    distance = np.hypot(others[:, 0] - y, others[:, 1] - x)
    distance[own] = np.inf
    return float(distance.min())


def _chain(points: list[list[float]]) -> list[list[float]]:
    """Return the lower hull of sorted points."""
    chain: list[list[float]] = []
    for y, x in points:
        while len(chain) > 1:
            (ay, ax), (by, bx) = chain[-2:]
            if (by - ay) * (x - ax) - (bx - ax) * (y - ay) > 0:
                break
            chain.pop()
        chain.append([y, x])
    return chain


def lines_of(labels: npt.NDArray[Any]) -> Lines:
    """Return the ranges in which neighbouring `labels` (N, ...) are equal."""
    changed = (np.diff(labels, axis=0) != 0).reshape(len(labels) - 1, -1).any(axis=1)
    ends = [0, *(np.flatnonzero(changed) + 1).tolist(), len(labels)]
    return tuple(pairwise(ends))


def positive(**values: float) -> None:
    """Raise PlanError where any of `values` is not above 0 and finite."""
    faults = [
        f"{name} is {value}; it must be above 0 and finite"
        for name, value in values.items()
        if not 0 < value < float("inf")
    ]
    if faults:
        raise PlanError(report("scan pattern", faults))


def few_enough(name: str, count: float) -> None:
    """Raise PlanError where a pattern would have more positions than any scan."""
    if not count <= MOST_POSITIONS:
        raise PlanError(
            f"{name} would have {count:.3g} positions; at most {MOST_POSITIONS:,} are allowed: give lengths in metres"
        )
