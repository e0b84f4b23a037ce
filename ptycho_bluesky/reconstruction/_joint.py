"""Several scans in one reconstruction: of one object with probes of their own, or with one probe on several objects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ptycho_bluesky.errors import ReconstructionError, report
from ptycho_bluesky.experiment import ObjectGrid, PtychoDataset
from ptycho_bluesky.reconstruction._growing import ChainedFrames
from ptycho_bluesky.reconstruction._model import Model
from ptycho_bluesky.reconstruction._problem import Problem, prepare

__all__ = ["Joint", "Shared", "joined"]

Shared = Literal["object", "probe"]
"""What the scans have in common; the other is each scan's own."""

MARGIN = 16
"""Object pixels around the outermost patches."""

TRIAL = 64
"""Frames from which a scan's mean counts are taken to scale its probe."""


@dataclass(frozen=True)
class Joint:
    """Scans joined into one problem, and the way back."""

    scans: list[PtychoDataset]
    shared: Shared
    problem: Problem
    rows: list[int]
    """First row on the common canvas of each scan's own object; 0 where the object is shared."""

    def split(self, model: Model) -> list[tuple[Problem, Model]]:
        """Return the problem and the model of each scan."""
        found, first_frame, first = [], 0, 0
        for number, scan in enumerate(self.scans):
            used = self.problem.used[first_frame : first_frame + len(scan)]
            mine = slice(first, first + int(used.sum()))
            first_frame, first = first_frame + len(scan), mine.stop
            grid, shift = self._grid(number), np.array([self.rows[number], 0])
            corners = model.corners[mine] - shift
            start = replace(self.problem.start, corners=self.problem.start.corners[mine] - shift)
            problem = replace(self.problem, grid=grid, used=used, start=start, sets=np.zeros(len(corners), np.int64))
            obj, probe = model.object, model.probe
            if self.shared == "probe":
                obj = obj[:, shift[0] : shift[0] + grid.shape[0], : grid.shape[1]]
            else:
                probe = probe[number, None]
            variation = model.variation
            if variation is not None:
                variation = replace(variation, weights=variation.weights[mine])
            found.append((problem, replace(model, object=obj, probe=probe, corners=corners, variation=variation)))
        return found

    def _grid(self, number: int) -> ObjectGrid:
        scan = self.scans[number]
        if self.shared == "probe":
            return scan.object_grid(MARGIN)
        whole = self.problem.grid
        return replace(whole, corners=(scan.positions - np.array(whole.origin)) / whole.pixel_size)


def joined(scans: Sequence[PtychoDataset], shared: Shared, modes: int, memory_gb: float | None = None) -> Joint:
    """Return one problem for several scans.

    Parameters
    ----------
    scans:
        Two or more, with equal frame shape, mask, modality and object pixel.
    shared:
        ``"object"``: the positions of all scans are on one sample, each scan has its own probe; ``"probe"``: each scan
        has its own object, all have the first one's probe.
    modes, memory_gb:
        As of :func:`prepare`.

    Raises
    ------
    DatasetError, ReconstructionError
        When scans are faulty, or do not fit together.
    """
    chosen = [scan.validate() for scan in scans]
    if faults := _misfits(chosen):
        raise ReconstructionError(report("scans that share an object or a probe", faults))
    frames, rows, positions = ChainedFrames([scan.frames for scan in chosen]), [0] * len(chosen), []
    pixel, bottom = chosen[0].pixel_size_m or 1.0, 0
    for number, scan in enumerate(chosen):
        if shared == "object":
            positions.append(scan.positions)
            continue
        rows[number] = bottom  # below each other on one canvas, each on the grid that it has alone
        positions.append(scan.positions - scan.positions.min(axis=0) + np.array([bottom * pixel, 0.0]))
        bottom += scan.object_grid(MARGIN).shape[0]
    whole = replace(chosen[0], frames=frames, positions=np.concatenate(positions), timestamps=None)
    problem = prepare(whole, modes, margin=MARGIN, memory_gb=memory_gb)
    if shared == "object":
        counts = np.diff([0, *np.cumsum([problem.used[part].sum() for part in _parts(chosen)])])
        probes = [prepare(scan.subset(slice(0, TRIAL)), modes).start.probe[0] for scan in chosen]
        start = replace(problem.start, probe=np.stack(probes))
        problem = replace(problem, sets=np.repeat(np.arange(len(chosen)), counts), start=start)
    return Joint(chosen, shared, problem, rows)


def _parts(scans: list[PtychoDataset]) -> list[slice]:
    ends = np.cumsum([0, *(len(scan) for scan in scans)])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


def _misfits(scans: list[PtychoDataset]) -> list[str]:
    if len(scans) < 2:
        return [f"{len(scans)} scan given; two or more can share something"]
    faults, first = [], scans[0]
    for number, scan in enumerate(scans[1:], start=2):
        name = f"scan {number} ({scan.name or 'unnamed'})"
        if scan.frame_shape != first.frame_shape:
            faults.append(f"{name} has frames of {scan.frame_shape}, the first {first.frame_shape}: crop to one shape")
        if scan.modality != first.modality:
            faults.append(f"{name} is {scan.modality}, the first {first.modality}")
        ours, theirs = scan.pixel_size_m or 1.0, first.pixel_size_m or 1.0
        if (scan.pixel_size_m is None) != (first.pixel_size_m is None) or abs(ours / theirs - 1) > 1e-4:
            faults.append(
                f"{name} has object pixels of {scan.pixel_size_m}, the first of {first.pixel_size_m}: the same energy, "
                "distance and frame size are needed"
            )
        masks = [np.zeros(scan.frame_shape, bool) if s.mask is None else s.mask for s in (scan, first)]
        if masks[0].shape == masks[1].shape and (masks[0] != masks[1]).any():
            faults.append(f"{name} has another mask than the first: give all the union of both")
    return faults
