"""``auto``, the default: chooses engines and chains them, so that a new user need not touch an option."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._anneal import GENTLE, FastOptions, fast_epochs
from ptycho_bluesky.reconstruction.engines._base import BaseEngine
from ptycho_bluesky.reconstruction.engines._fast import FastEngine
from ptycho_bluesky.reconstruction.engines._lsqml import LsqmlEngine, LsqmlOptions
from ptycho_bluesky.reconstruction.engines._ml import MlEngine, MlOptions
from ptycho_bluesky.reconstruction.engines._options import EngineOptions
from ptycho_bluesky.reconstruction.engines._state import EngineState

__all__ = ["AutoEngine", "AutoOptions"]

FEW = 64
"""Frames below which nothing but object and probe is looked for: the rest would fit the noise."""

FINE = 4
"""Divisions of a pixel to which the polish rounds positions."""

VARIATION_EPOCHS = 15

POLISH_VISITS = 15_000

LEAST_TO_SHARE = 10
"""Epochs of which a part may go to the positions."""

SAMPLE = 16
"""Frames by which counts are told from other numbers."""


class AutoOptions(FastOptions):
    """Options of ``auto``: those of the fast engine, with which it begins, and how far it goes on.

    ``epochs`` are those of the fast engine; None for its own number, and a polish. ``background`` and
    ``position_correction`` are None for what suits the data: a background with photon counts in the far field,
    positions refined a little.
    """

    background: bool | None = None  # type: ignore[assignment]
    """Estimate counts that are no diffraction; None for photon counts in the far field, from 64 frames on."""

    position_correction: bool | None = None  # type: ignore[assignment]
    """True looks for errors of tens of pixels first; None refines positions that are nearly right, from 64 frames on;
    False leaves them as given."""

    polish_epochs: int | None = Field(default=None, ge=0, le=10_000)
    """Epochs of maximum likelihood at the end; 0 for none; None for 15,000 visits of a frame, but 5 to 30 epochs,
    or for none where ``epochs`` is given."""


@dataclass(frozen=True)
class _Stage:
    """An engine of the chain, and what it is told."""

    engine: BaseEngine[Any]
    options: EngineOptions
    epochs: int


class AutoEngine(BaseEngine[AutoOptions]):
    """The fast engine, then refined positions, then maximum likelihood.

    1. Annealed rPIE from a coarse start: an image within the first second.
    2. The same from that image on with position correction, small steps.
    3. Variation of the probe, if asked for, by LSQML.
    4. Conjugate gradients down the likelihood: of Poisson's with a background where the far field's frames are photon
       counts, else of Gauss's.

    A thick object (``slices``) is left to the fast engine alone. Each stage begins where the one before it ended; any
    state is a result.
    """

    name = "auto"
    options_type = AutoOptions
    supports: ClassVar[frozenset[str]] = frozenset({"position_correction", "background", "opr", "slices"})

    def iterate(self, problem: Problem, options: AutoOptions) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at ``problem.start``."""
        began, done, stages = time.perf_counter(), 0, self._stages(problem, options)
        while stages:
            stage, state = stages.pop(0), None
            to_come = sum(later.epochs for later in stages)
            for state in stage.engine.iterate(problem, stage.options):
                epoch, message = done + state.epoch, state.message
                if state.epoch == state.epochs:
                    reached = f"{stage.engine.name}: R-factor {state.r_factor:.4f} after {state.epoch} epochs"
                    message = "; ".join(text for text in (message, reached) if text)
                epochs, seconds = done + state.epochs + to_come, time.perf_counter() - began
                yield replace(state, epoch=epoch, epochs=epochs, seconds=seconds, message=message)
            if state is not None:
                done, problem = done + state.epoch, replace(problem, start=state.model)

    def from_near(self, options: AutoOptions, frames: int) -> AutoOptions:
        """Return half of the fast engine's epochs, in small steps, and two thirds of the polish."""
        if options.epochs is not None:
            return options
        polish = 2 * _polish_epochs(frames) // 3 if options.polish_epochs is None else options.polish_epochs
        fewer = {"epochs": fast_epochs(frames) // 2, "step": min(options.step, GENTLE), "polish_epochs": polish}
        return options.model_copy(update=fewer)

    def _stages(self, problem: Problem, options: AutoOptions) -> list[_Stage]:
        """Return what suits the problem, in order."""
        enough, thin = len(problem) >= FEW, options.slices == 1
        given = options.model_dump(exclude={"background", "opr", "polish_epochs", "position_correction"})
        fast = FastOptions.model_validate(given | {"position_correction": options.position_correction is True})
        epochs = options.epochs or fast_epochs(len(problem))
        refine = options.position_correction is None and enough and thin and epochs >= LEAST_TO_SHARE
        first = epochs - epochs // 2 if refine else epochs
        stages = [_Stage(FastEngine(self.device), fast.model_copy(update={"epochs": first}), first)]
        if refine:
            gentle = {"position_correction": True, "step": GENTLE, "epochs": epochs - first}
            stages.append(_Stage(FastEngine(self.device), fast.model_copy(update=gentle), epochs - first))
        if not thin:
            return stages
        counts = problem.propagator.reciprocal and _are_counts(problem)
        background = counts and enough if options.background is None else options.background
        common = {name: given[name] for name in EngineOptions.model_fields if name in given} | {
            "background": background
        }
        if options.opr:
            vary = LsqmlOptions.model_validate({**common, "opr": options.opr, "epochs": VARIATION_EPOCHS})
            stages.append(_Stage(LsqmlEngine(self.device), vary, VARIATION_EPOCHS))
        polish = options.polish_epochs
        if polish is None:
            polish = 0 if options.epochs else _polish_epochs(len(problem))
        if polish and (enough or background):
            last = {"epochs": polish, "subpixel": max(FINE, options.subpixel)}
            likely = MlOptions.model_validate({**common, **last, "noise": "poisson" if counts else "gaussian"})
            stages.append(_Stage(MlEngine(self.device), likely, polish))
        return stages


def _polish_epochs(frames: int) -> int:
    return int(np.clip(round(POLISH_VISITS / frames), 5, 30))


def _are_counts(problem: Problem) -> bool:
    """Tell whether amplitudes are roots of whole numbers, as a photon-counting detector gives them."""
    chosen = np.linspace(0, len(problem) - 1, min(SAMPLE, len(problem))).astype(np.int64)
    amplitude = problem.amplitudes.of(chosen)
    counts = amplitude[(amplitude > 0) & (amplitude < 100)].astype(np.float64) ** 2
    return bool(counts.size and np.abs(counts - np.rint(counts)).max() < 0.01 and np.rint(counts).min() >= 1)
