"""``ptycho-bluesky train``: a network for the live image, from simulated frames alone."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from ptycho_bluesky.cli._input import check_writable, probe_of
from ptycho_bluesky.cli._interrupt import stop_on_interrupt
from ptycho_bluesky.cli._output import Json, emit, progress, start_logging
from ptycho_bluesky.errors import InferenceError

__all__ = ["train_command"]


def train_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write (.safetensors).")] = Path(
        "model.safetensors"
    ),
    probe: Annotated[
        str | None,
        typer.Option(help="Train for this beamline: a reconstruction, or a dataset with a probe. Else for any probe."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Frames a step.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and frames.")] = 0,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of the optimiser; the frames are simulated beside it.")
    ] = 1,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Compute in bfloat16: twice as fast on processors that have it.")
    ] = False,
    validate_every: Annotated[int | None, typer.Option(min=1, help="Steps between looks at held-out frames.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=1, help="Stop after this long, with a usable model.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Kept while training; one that is there is resumed.")] = None,
    json_output: Json = False,
) -> None:
    """Train a network on simulated frames: no measured training data is needed.

    Ctrl-C stops and writes the model as it is; with --checkpoint, the same command goes on from there.
    """
    start_logging()
    from ptycho_bluesky.inference import TrainingOptions, TrainingState, train

    given = {
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "threads": threads,
        "bfloat16": bfloat16,
        "validate_every": validate_every,
    }
    options = TrainingOptions(**{key: value for key, value in given.items() if value is not None})
    check_writable(output)
    began = time.perf_counter()
    last = TrainingState(steps=options.steps)
    with progress("training", options.steps) as update, stop_on_interrupt("the model so far") as asked:

        def on_state(state: TrainingState) -> None:
            nonlocal last
            last = state
            update(state.step, f"held-out correlation {state.curves['validation_correlation'][-1]:.3f}")

        model = train(
            output,
            options,
            probe=None if probe is None else probe_of(probe),
            checkpoint=checkpoint,
            on_state=on_state,
            should_stop=lambda: asked() or time.perf_counter() - began > (max_seconds or math.inf),
        )
    steps_done = int(model.notes["steps"])
    if steps_done == 0:
        output.unlink()
        raise InferenceError("the training was stopped before its first step; no model was written: give it more time")
    emit(
        {
            "model": model.name,
            "steps": steps_done,
            "seconds": time.perf_counter() - began,
            "validation_loss": last.curves["validation_loss"][-1] if last.curves["validation_loss"] else None,
            "validation_correlation": (
                last.curves["validation_correlation"][-1] if last.curves["validation_correlation"] else None
            ),
            "output": str(output),
        },
        json_output,
    )
