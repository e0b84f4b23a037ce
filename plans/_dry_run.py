"""A plan walked through without any hardware: where it would go, and a picture of it."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bluesky.utils import Msg

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import POSITION_UNITS_M, FlyPath, PtychographyMetadata
from ptycho_bluesky.plans._checks import NotAsked
from ptycho_bluesky.plans._start import LISTENING

__all__ = ["DryRun", "DryScan", "dry_run"]

FOOTPRINT_PIXELS = 160
"""Along the longer side of the picture of how often each place is seen."""


@dataclass
class DryScan:
    """One run of a plan that was walked through."""

    metadata: dict[str, Any]
    """Of its start document."""
    positions_m: list[tuple[float, float]] = field(default_factory=list)
    """(y, x) of each frame on the sample, metres (object pixels where there are no lengths)."""
    moves: list[tuple[str, Any]] = field(default_factory=list)
    """Name and target of all other devices that were set before the run."""


class DryRun:
    """What a plan would do: its runs with their positions, and a picture of them.

    Attributes
    ----------
    scans:
        The runs in their order.
    messages:
        Number of messages of the plan.
    told:
        What the plan would have told: its cost, and its scans one by one.
    """

    def __init__(self) -> None:
        self.scans: list[DryScan] = []
        self.messages, self.told = 0, list[str]()
        self._moves: list[tuple[str, Any]] = []
        self._at: dict[str, float] = {}
        self._path: FlyPath | None = None

    def answer(self, msg: Msg) -> Any:
        """Take one message, and return what a RunEngine would, had the devices done it."""
        self.messages += 1
        command = msg.command
        if command == "open_run":
            self.scans.append(DryScan(dict(msg.kwargs), moves=self._moves))
            self._moves = []
            return str(uuid.uuid4())
        if command == "set":
            self._set(msg.obj, msg.args[0])
        elif command == "save" and self.scans:
            self._add(np.array([self._here()]))
        elif command == "prepare" and isinstance(msg.args[0], FlyPath):
            self._path = msg.args[0]
        elif command == "kickoff" and self._path is not None and self.scans:
            path, self._path = self._path, None
            self._add(path.positions)
        elif command == "complete":
            return _Done()
        elif command == "wait_for":
            raise NotAsked("a dry run asks no device")
        return {"rewindable": True, "wait": True, "read": {}, "locate": {"setpoint": 0.0, "readback": 0.0}}.get(command)

    def _set(self, device: Any, value: Any) -> None:
        if isinstance(value, int | float):
            self._at[device.name] = float(value)
        if not (self.scans and device.name in self._keys()):
            self._moves.append((device.name, value))

    def _keys(self) -> tuple[str, ...]:
        return tuple(self.scans[-1].metadata.get("motors", ()))

    def _here(self) -> tuple[float, float]:
        y, x = (self._at.get(name, 0.0) for name in self._keys())
        return y, x

    def _add(self, positions: npt.NDArray[np.float64]) -> None:
        """Add positions of the axes, as the dataset will have them."""
        block = PtychographyMetadata.from_start(self.scans[-1].metadata)
        unit = POSITION_UNITS_M.get(block.position_unit, 1.0)
        placed = positions * np.asarray(block.axis_signs) * unit + np.asarray(block.position_offset_m)
        self.scans[-1].positions_m += [(float(y), float(x)) for y, x in placed]

    def __len__(self) -> int:
        return sum(len(scan.positions_m) for scan in self.scans)

    def __repr__(self) -> str:
        return f"<DryRun of {len(self.scans)} runs, {len(self)} frames, {self.messages} messages>"

    def draw(self) -> Any:
        """Return a ``matplotlib`` figure: the way of the probe, and how many frames see each place of the sample.

        Raises
        ------
        PlanError
            When the plan measures no frame.
        """
        from matplotlib.figure import Figure

        if not len(self):
            raise PlanError("the plan would measure no frame; there is nothing to draw")
        scale, unit = self._scale()
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        way, seen = figure.subplots(1, 2)
        for index, scan in enumerate(self.scans):
            y, x = np.array(scan.positions_m).T * scale
            colour = f"C{index % 10}"
            way.plot(x, y, "-", color=colour, linewidth=0.6, alpha=0.7)
            way.plot(x, y, ".", color=colour, markersize=max(1.5, 6 - len(x) / 200))
            way.plot(x[:1], y[:1], "o", color=colour, markersize=7, markerfacecolor="none")
        first = self.scans[0].metadata
        block = PtychographyMetadata.from_start(first)
        runs = "1 run" if len(self.scans) == 1 else f"{len(self.scans)} runs"
        way.set_title(f"{first.get('plan_name', 'plan')}: {runs}, {len(self)} frames; circle = begin")
        counts, extent = self._footprint(block, scale)
        image = seen.imshow(counts, extent=extent, cmap="viridis", interpolation="nearest")
        figure.colorbar(image, ax=seen, label="frames that see a place")
        known = block.probe_diameter_m is not None and unit == "um"
        seen.set_title(f"probe of {(block.probe_diameter_m or 0) * 1e6:.3g} um" if known else "probe's size not known")
        for axes in (way, seen):
            axes.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})", aspect="equal")
        way.set_xlim(extent[0], extent[1])
        way.set_ylim(extent[2], extent[3])  # y down, as rows of the object
        return figure

    def save(self, path: Path | str) -> Path:
        """Draw, and write a picture (PNG, PDF or SVG by the name's ending)."""
        chosen = Path(path)
        self.draw().savefig(chosen, dpi=120)
        return chosen

    def _scale(self) -> tuple[float, str]:
        pixels = PtychographyMetadata.from_start(self.scans[0].metadata).position_unit == "px"
        return (1.0, "px") if pixels else (1e6, "um")

    def _footprint(
        self, block: PtychographyMetadata, scale: float
    ) -> tuple[npt.NDArray[np.int64], tuple[float, float, float, float]]:
        """Return how many frames see each place in all runs: rows down, and the picture's edges."""
        placed = [np.array(scan.positions_m) * scale for scan in self.scans]
        everything = np.concatenate(placed)
        span = float(np.ptp(everything, axis=0).max()) or 1.0
        known = block.probe_diameter_m is not None and block.position_unit != "px"
        radius = (block.probe_diameter_m or 0.0) * scale / 2 if known else span / 100
        low, high = everything.min(axis=0) - 1.2 * radius, everything.max(axis=0) + 1.2 * radius
        side = float((high - low).max()) / FOOTPRINT_PIXELS
        y, x = (np.arange(a + side / 2, b, side) for a, b in zip(low, high, strict=True))
        counts = np.zeros((len(y), len(x)), np.int64)
        for py, px in everything:
            rows = slice(*np.searchsorted(y, (py - radius, py + radius)))
            columns = slice(*np.searchsorted(x, (px - radius, px + radius)))
            inside = (y[rows, None] - py) ** 2 + (x[None, columns] - px) ** 2 <= radius**2
            counts[rows, columns] += inside
        return counts, (float(low[1]), float(high[1]), float(high[0]), float(low[0]))


class _Done:
    """The status of what is not done at all."""

    done = True
    success = True


def dry_run(plan: Generator[Msg, Any, Any], save: Path | str | None = None) -> DryRun:
    """Walk through a plan without a RunEngine; no device moves or is triggered, and no document is made.

    All checks of the plan happen, except those that only an asynchronous device could answer: a scan that would be
    refused is refused here too.

    Parameters
    ----------
    plan:
        Any plan of this package, e.g. ``ptycho_mosaic(...)``; it is used up.
    save:
        Picture to write, by its ending PNG, PDF or SVG; None for none.

    Returns
    -------
    DryRun
        Runs, positions and, by :meth:`DryRun.draw`, a figure.

    Raises
    ------
    PlanError
        When the plan refuses.
    """
    walked, answer = DryRun(), None
    asked: NotAsked | None = None
    token = LISTENING.set(walked.told)
    try:
        while True:
            msg = plan.throw(asked) if asked is not None else plan.send(answer)
            answer, asked = None, None
            try:
                answer = walked.answer(msg)
            except NotAsked as error:
                asked = error
    except StopIteration:
        pass
    finally:
        LISTENING.reset(token)
    if save is not None:
        walked.save(save)
    return walked
