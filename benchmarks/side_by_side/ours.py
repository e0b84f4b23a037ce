"""ptycho-bluesky: the fast engine by itself, or `reconstruct` with any engine."""

from __future__ import annotations

from typing import Any

import numpy as np

import ptycho_bluesky
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction import EngineState, reconstruct
from side_by_side.contestant import Problem, Record, Snapshot


def dataset_of(problem: Problem) -> PtychoDataset:
    return PtychoDataset(problem.frames, problem.corners, probe=problem.probe, name="benchmark")


def warm_up(problem: Problem, settings: dict[str, Any]) -> None:
    """Load the compiled passes, or compile them: what the first run on a machine costs is reported by itself."""
    few = PtychoDataset(problem.frames[:64], problem.corners[:64], probe=problem.probe)
    reconstruct(few, settings["engine"], {**settings["options"], "threads": problem.threads})


def run(problem: Problem, settings: dict[str, Any], record: Record) -> dict[str, Any]:
    stopped = False

    def on_state(state: EngineState) -> None:
        nonlocal stopped

        def snapshot() -> Snapshot:
            model, count = state.model, len(problem.frames)
            corners = getattr(model, "corners", None)
            kept: Snapshot = {"object": state.object, "probe": state.probe}
            kept["corners"] = state.problem.corners if corners is None else corners
            if getattr(model, "background", None) is not None:
                kept["background"] = np.fft.fftshift(model.background)
            if getattr(model, "variation", None) is not None:
                weights = np.concatenate([np.ones((count, 1), np.float32), model.variation.weights], axis=1)
                kept |= {"opr": model.variation.modes, "opr_weights": weights}
            return kept

        stopped = not record(snapshot)

    options = {**settings["options"], "threads": problem.threads}
    result = reconstruct(
        dataset_of(problem), settings["engine"], options, on_state=on_state, should_stop=lambda: stopped
    )
    return {"version": ptycho_bluesky.__version__, "chosen_engine": result.engine, "parameters": result.parameters}
