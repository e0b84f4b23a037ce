"""All exit waves of a scan in memory, and the projections on the measured amplitudes and on the overlap."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import psutil
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.optics import fourier_shift
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._modes import orthogonal_modes
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._projections import ProjectionOptions
from ptycho_bluesky.reconstruction.engines._state import EngineState
from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels

__all__ = ["DifferenceMap", "ExitWaves", "Mean", "RelaxedReflections", "iterated"]

SHARE_OF_MEMORY = 0.7
"""Of what is free, at most for the waves."""

PIXELS_AT_ONCE = {"cpu": 2**19, "cuda": 2**24}
"""Wave pixels worked on together: 4 MB stay near a processor's cache; a GPU wants to be filled."""


@dataclass(frozen=True)
class _Chunk:
    """Frames that are worked on together, and what lights them."""

    place: slice
    """Of their waves, which lie in Hilbert order."""

    amplitude: torch.Tensor
    groups: torch.Tensor
    corners: torch.Tensor


class ExitWaves(ABC):
    """The exit waves (N, M, H, W) of all frames, on the device where they fit, else in the host's memory.

    Parameters
    ----------
    problem:
        Object and probe begin at its start.
    options, engine:
        Of the engine and its name, for the words of an error.
    kernels:
        Whose operations on waves do the work.
    """

    copies: ClassVar[int] = 1
    """How many numbers are kept for each of a wave's pixels."""

    def __init__(self, problem: Problem, options: ProjectionOptions, kernels: BatchKernels, engine: str) -> None:
        self.problem, self.options, self._on = problem, options, kernels.waves
        self.device = self._on.device
        self.groups = problem.groups(problem.start, options.subpixel if problem.propagator.reciprocal else 1)
        self.obj = torch.from_numpy(problem.start.object[0].copy()).to(self.device)
        self.probe: ComplexArray = problem.start.probe
        self._order = np.concatenate(problem.amplitudes.blocks)
        self._of_frame = torch.from_numpy(self.groups.of_frame[self._order]).to(self.device)
        self._corners = torch.from_numpy(self.groups.corners[self._order]).to(self.device)
        self._shape = (len(problem), *self.probe.shape[1:])
        self._home = self._place(engine)
        self.waves = self._empty()

    def _place(self, engine: str) -> torch.device:
        needed = 8 * self.copies * int(np.prod(self._shape, dtype=np.int64))
        if self.device.type == "cuda" and needed < SHARE_OF_MEMORY * torch.cuda.mem_get_info(self.device)[0]:
            return self.device
        free = psutil.virtual_memory().available
        if needed > SHARE_OF_MEMORY * free:
            frames, modes, size, _ = self._shape
            raise ReconstructionError(
                f"engine {engine!r} keeps all exit waves in memory: {frames} frames of {size} x {size} pixels with "
                f"{modes} modes need {needed / 1e9:.3g} GB, allowed are {SHARE_OF_MEMORY:.0%} of the {free / 1e9:.3g} "
                "GB that are free; take fewer modes or frames, or an engine that keeps none, such as 'fast'"
            )
        return torch.device("cpu")

    def _empty(self) -> torch.Tensor:
        return torch.empty(self._shape, dtype=torch.complex64, device=self._home)

    def _chunks(self) -> Iterator[_Chunk]:
        step = max(1, PIXELS_AT_ONCE.get(self.device.type, 2**22) // int(np.prod(self._shape[1:])))
        place = 0
        for block in self.problem.amplitudes.load(range(len(self.problem.amplitudes.blocks))):
            for first in range(0, len(block.frames), step):
                rows = block.rows[first : first + step]
                chosen = slice(place, place + len(rows))
                amplitude = torch.from_numpy(block.amplitude[rows]).to(self.device)
                yield _Chunk(chosen, amplitude, self._of_frame[chosen], self._corners[chosen])
                place += len(rows)

    def _probes(self) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.groups.spread(self.probe))).to(self.device)

    def _exits(self, chunk: _Chunk, probes: torch.Tensor) -> torch.Tensor:
        return self._on.exit_waves(self.obj, probes, chunk.groups, chunk.corners)

    def _measured(self, waves: torch.Tensor, amplitude: torch.Tensor) -> torch.Tensor:
        """Return the projection of waves on the measured amplitudes; may write over `waves`."""
        return self._on.to_sample(self._on.project(self._on.to_detector(waves), amplitude)[0])

    @abstractmethod
    def _advance(self, place: slice, exits: torch.Tensor, amplitude: torch.Tensor) -> None:
        """Put into ``waves[place]`` what is to be projected on the overlap next; `exits` are those of the model."""

    @torch.inference_mode()
    def epoch(self, *, with_probe: bool, settle: bool) -> float:
        """Advance all waves, project them on the overlap; return the R-factor of the model as it was before.

        With `settle`, the waves become the projection of the model's own on the measured amplitudes.
        """
        error, probes = torch.zeros((), dtype=torch.float64, device=self.device), self._probes()
        for chunk in self._chunks():
            exits = self._exits(chunk, probes)
            projected, seen = self._on.project(self._on.to_detector(exits.clone()), chunk.amplitude)
            error += seen.sum(dtype=torch.float64)
            if settle:
                self.waves[chunk.place] = self._on.to_sample(projected).to(self._home)
            else:
                self._advance(chunk.place, exits, chunk.amplitude)
        for _ in range(self.options.inner):
            self._update_object()
            if with_probe:
                self._update_probe()
        return float(error) / self.problem.total

    def _difference(self, chunk: _Chunk, probes: torch.Tensor) -> torch.Tensor:
        return self.waves[chunk.place].to(self.device) - self._exits(chunk, probes)

    def _update_object(self) -> None:
        """Move the object to the least-squares solution for the probe (Thibault 2009, eq. 7)."""
        numerator, weight, probes = torch.zeros_like(self.obj), torch.zeros_like(self.obj.real), self._probes()
        for chunk in self._chunks():
            difference = self._difference(chunk, probes)
            self._on.add_object(numerator, weight, difference, probes, chunk.groups, chunk.corners)
        self.obj = self.obj + numerator / (weight + self.options.damping * weight.amax())

    def _update_probe(self) -> None:
        """Move the probe to the least-squares solution for the object (ibid., eq. 8), each group's part moved back."""
        probes = self._probes()
        numerator, weight = torch.zeros_like(probes), torch.zeros_like(probes[:, 0].real)
        for chunk in self._chunks():
            difference = self._difference(chunk, probes)
            self._on.add_probe(numerator, weight, difference, self.obj, chunk.groups, chunk.corners)
        back = fourier_shift(numerator.cpu().numpy(), -self.groups.fractions[:, None])
        total, bright = np.zeros_like(self.probe), np.zeros((len(self.probe), *self._shape[2:]), np.float32)
        np.add.at(total, self.groups.sets, back)
        np.add.at(bright, self.groups.sets, weight.cpu().numpy())
        held = self.options.damping * bright.max(axis=(1, 2), keepdims=True)
        self.probe = np.asarray(self.probe + total / (bright + held)[:, None], np.complex64)


class DifferenceMap(ExitWaves):
    """``x += beta (M(2 S(x) - x) - S(x))`` with M for measured and S for overlap (Thibault 2009, eq. 9)."""

    def __init__(self, problem: Problem, options: ProjectionOptions, kernels: BatchKernels, engine: str) -> None:
        super().__init__(problem, options, kernels, engine)
        probes = self._probes()
        for chunk in self._chunks():
            self.waves[chunk.place] = self._exits(chunk, probes).to(self._home)

    def _advance(self, place: slice, exits: torch.Tensor, amplitude: torch.Tensor) -> None:
        waves = self.waves[place].to(self.device)
        step = self._measured(2 * exits - waves, amplitude) - exits
        self.waves[place] = (waves + self.options.beta * step).to(self._home)


class RelaxedReflections(ExitWaves):
    """``x = beta / 2 (R_S R_M x + x) + (1 - beta) M(x)`` with the reflections ``R = 2 M - 1`` (Luke 2005, eq. 4.9).

    The overlap is sought for ``y = R_M x``; then ``x = beta S(y) + rest`` with ``rest = beta x + (1 - 2 beta) M(x)``.
    """

    copies = 2

    def __init__(self, problem: Problem, options: ProjectionOptions, kernels: BatchKernels, engine: str) -> None:
        super().__init__(problem, options, kernels, engine)
        self._rest, probes = self._empty(), self._probes()
        for chunk in self._chunks():
            self._rest[chunk.place] = ((1 - options.beta) * self._exits(chunk, probes)).to(self._home)

    def _advance(self, place: slice, exits: torch.Tensor, amplitude: torch.Tensor) -> None:
        beta = self.options.beta
        waves = beta * exits + self._rest[place].to(self.device)
        measured = self._measured(waves.clone(), amplitude)
        self.waves[place] = (2 * measured - waves).to(self._home)
        self._rest[place] = (beta * waves + (1 - 2 * beta) * measured).to(self._home)


class Mean:
    """Mean of models that differ in a global phase."""

    def __init__(self) -> None:
        self._count = 0
        self._obj: npt.NDArray[np.complex128] = np.zeros((), np.complex128)
        self._probe: npt.NDArray[np.complex128] = np.zeros((), np.complex128)

    def add(self, model: Model) -> Model:
        """Return `model` averaged with those before."""
        obj, probe = model.object.astype(np.complex128), model.probe.astype(np.complex128)
        if self._count:
            turn = np.vdot(obj, self._obj)
            turn /= max(abs(turn), np.finfo(np.float64).tiny)
            obj, probe = obj * turn, probe / turn
        self._count += 1
        self._obj, self._probe = self._obj + obj, self._probe + probe
        mean = self._obj / self._count, self._probe / self._count
        return replace(model, object=mean[0].astype(np.complex64), probe=mean[1].astype(np.complex64))


def iterated(
    waves: ExitWaves, problem: Problem, options: ProjectionOptions, kernels: BatchKernels
) -> Iterator[EngineState]:
    """Yield a state after each epoch."""
    began, epochs, mean = time.perf_counter(), options.epochs or 100, Mean()
    groups: ProbeGroups = waves.groups
    for epoch in range(1, epochs + 1):
        error = waves.epoch(with_probe=epoch > options.probe_start, settle=epoch > epochs - options.settle)
        model = replace(problem.start, object=waves.obj.cpu().numpy().copy()[None], probe=waves.probe)
        if not (np.isfinite(error) and model.is_finite()):
            raise ReconstructionError(
                f"epoch {epoch} ended with numbers that are not finite (R-factor {error:.3g}); check positions (unit, "
                "order, signs), orientation and probe, or take a smaller beta"
            )
        if epoch > epochs - options.average:
            model = mean.add(model)
        model = replace(model, probe=orthogonal_modes(model.probe))
        yield EngineState(epoch, epochs, error, time.perf_counter() - began, model, problem, kernels, groups)
