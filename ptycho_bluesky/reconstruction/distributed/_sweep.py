"""An epoch of one rank among others: border frames first, so that halos travel while the interior is worked on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from ptycho_bluesky.reconstruction._amplitudes import BLOCK, Numbers
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator
from ptycho_bluesky.reconstruction.distributed._field import OwnAmplitudes
from ptycho_bluesky.reconstruction.distributed._halos import Halos
from ptycho_bluesky.reconstruction.distributed._partition import Partition
from ptycho_bluesky.reconstruction.kernels import Kernels, Steps, Swept

__all__ = ["Meter", "RankKernels"]


@dataclass
class Meter:
    """What a rank did so far."""

    frames: int = 0
    """Visits of frames."""

    seconds: float = 0.0
    """In the kernels, without any wait for other ranks."""

    @property
    def speed(self) -> float:
        """Frames a second."""
        return self.frames / max(self.seconds, 1e-9)

    def reset(self) -> None:
        """Begin to count anew."""
        self.frames, self.seconds = 0, 0.0


class RankKernels:
    """The kernel set on one of several ranks: those of its device, on the rank's tile, and agreement with the others.

    An epoch has a few segments. In each a rank visits part of its border frames, sends what neighbours share, visits
    part of its interior frames meanwhile, and then takes the mean over all ranks that light a pixel; probes are
    averaged, weighted with each rank's frames. After a segment all ranks hold the same probe, bit for bit.

    Parameters
    ----------
    problem:
        The rank's: corners of all frames within its tile.
    amplitudes, inner, mine:
        Of the rank's own frames: their amplitudes, kernels that work on these, and (n,) their numbers among all.
    partition:
        Of all frames.
    communicator, halos:
        To the other ranks, and the pixels shared with them.
    exchanges:
        Segments of an epoch.
    should_stop:
        Asked after each segment; True on any rank ends the epoch there on all of them.
    meter:
        Counts what this rank does.
    """

    def __init__(
        self,
        problem: Problem,
        amplitudes: OwnAmplitudes,
        inner: Kernels,
        mine: Numbers,
        partition: Partition,
        communicator: Communicator,
        halos: Halos,
        exchanges: int,
        should_stop: Callable[[], bool],
        meter: Meter,
    ) -> None:
        self.device, self.name = inner.device, f"{inner.name}, {communicator.size} ranks"
        self.problem, self.meter, self.stopped = problem, meter, False
        self._amplitudes, self._inner, self._mine = amplitudes, inner, mine
        self._communicator = communicator
        self._exchanges, self._should_stop = exchanges, should_stop
        self._share = np.float32(len(partition.frames[communicator.rank]) / sum(map(len, partition.frames)))
        own = partition.frames[communicator.rank]
        self._places: Numbers = np.searchsorted(mine, own)
        """(n,) of the rank's frames in Hilbert order, among its own."""
        on_border = partition.border(communicator.rank)
        self._border, self._interior = self._places[on_border], self._places[~on_border]
        self._halos = halos
        self._halos.weigh(problem.start.corners, problem.start.probe)

    def _choose(self, places: Numbers) -> None:
        """Let the inner kernels visit some of the rank's frames, which are in Hilbert order."""
        parts = np.array_split(places, max(1, -(-len(places) // BLOCK)))
        self._amplitudes.blocks = [np.ascontiguousarray(part) for part in parts]

    def _own(self, model: Model, groups: ProbeGroups) -> tuple[Model, ProbeGroups]:
        """Return what the inner kernels know of the frames."""
        mine = replace(groups, corners=groups.corners[self._mine], of_frame=groups.of_frame[self._mine])
        return replace(model, corners=model.corners[self._mine]), mine

    def _dealt(self, rng: np.random.Generator) -> Iterator[tuple[Numbers, Numbers]]:
        """Yield border and interior frames of each segment, dealt anew every epoch."""
        dealt = []
        for places in (self._border, self._interior):
            turns = rng.permutation(np.arange(len(places)) % self._exchanges)
            dealt.append([places[turns == turn] for turn in range(self._exchanges)])
        yield from zip(*dealt, strict=True)

    def sweep(self, model: Model, groups: ProbeGroups, steps: Steps, rng: np.random.Generator) -> Swept:
        """Update the model with every frame of all ranks once."""
        shifts = np.zeros_like(model.corners) if steps.find_shifts else None
        model, error, visited = replace(model, object=model.object.copy()), 0.0, 0.0

        def visit(model: Model, places: Numbers) -> Model:
            nonlocal error
            if not len(places):
                return model
            began = time.perf_counter()
            self._choose(places)
            swept = self._inner.sweep(*self._own(model, groups), steps, rng)
            error += swept.error
            if shifts is not None and swept.shifts is not None:
                shifts[self._mine[places]] = swept.shifts[places]
            self.meter.frames += len(places)
            self.meter.seconds += time.perf_counter() - began
            return replace(swept.model, corners=model.corners)

        for border, interior in self._dealt(rng):
            model = visit(model, border)
            started = self._halos.start(model.object)
            model = visit(model, interior)
            self._halos.finish(started, model.object)
            probe, self.stopped = self._averaged(model.probe, self._should_stop())
            model = replace(model, probe=probe)
            visited += len(border) + len(interior)
            if self.stopped:
                break
        spoilt = not (np.isfinite(error) and model.is_finite())
        counted = [error if not spoilt else 0.0, visited, spoilt]
        error, visited, spoilt_ranks = self._communicator.sum_of(counted, "errors")
        error *= len(model.corners) / max(visited, 1.0)
        if shifts is not None:
            shifts = self._communicator.all_reduce(torch.from_numpy(shifts), "shifts").numpy()
        return Swept(model, error if not spoilt_ranks else float("nan"), shifts)

    def _averaged(self, probe: ComplexArray, stop: bool) -> tuple[ComplexArray, bool]:
        """Return the mean probe, and whether any rank wants to stop: in one message, for each costs a round trip."""
        mine = np.append((self._share * probe).ravel(), np.complex64(stop))
        summed = self._communicator.all_reduce(torch.from_numpy(mine), "probe").numpy()
        return summed[:-1].reshape(probe.shape), bool(summed[-1].real > 0.5)

    def r_factor(self, model: Model, groups: ProbeGroups) -> float:
        """Return the R-factor over the frames of all ranks, with the best scale on each rank."""
        self._choose(self._places)
        return self._communicator.sum_of([self._inner.r_factor(*self._own(model, groups))], "R-factors")[0]
