"""``ptycho-bluesky train``: a network for the live image, from simulated frames, from reconstructions, or from both."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho_bluesky.cli._input import check_writable, load_input, probe_of
from ptycho_bluesky.cli._interrupt import stop_on_interrupt
from ptycho_bluesky.cli._output import Json, emit, progress, start_logging
from ptycho_bluesky.errors import InferenceError

if TYPE_CHECKING:
    from ptycho_bluesky.inference import ProbeViTModel, TrainingPairs, TrainingState

__all__ = ["train_command"]

COLD_START_S = 540.0


def train_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write (.safetensors).")] = Path(
        "model.safetensors"
    ),
    cold_start: Annotated[
        Path | None,
        typer.Option(
            help="A network for this beamline in minutes, from its first reconstruction (.h5); --data adds its dose "
            "and mask."
        ),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(help="Simulate this beamline: a reconstruction, or a dataset with a probe. Else any probe."),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Measured frames; with --reconstruction, in the same order, pairs.")
    ] = None,
    reconstruction: Annotated[list[Path] | None, typer.Option(help="Result (.h5) of each --data.")] = None,
    simulated_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of simulated batches beside measured ones.")
    ] = None,
    physics: Annotated[
        float | None, typer.Option(min=0, help="Weight of the amplitudes' misfit behind the probe in the loss.")
    ] = None,
    start_from: Annotated[str | None, typer.Option(help="Model whose weights to begin with: a name or a file.")] = None,
    size: Annotated[str | None, typer.Option(help="edge, jetson or gpu; else edge, or as --start-from.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Frames a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and frames.")] = 0,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of the optimiser; the frames are simulated beside it.")
    ] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Compute in bfloat16: twice as fast on processors that have it.")
    ] = False,
    validate_every: Annotated[int | None, typer.Option(min=1, help="Steps between looks at held-out frames.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=1, help="Stop after this long, with a usable model.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Kept while training; one that is there is resumed.")] = None,
    json_output: Json = False,
) -> None:
    """Train a network: on simulated frames, so that no measured training data is needed, or on reconstructions too.

    Ctrl-C stops and writes the model as it is; with --checkpoint, the same command goes on from there. Several
    processes train together under torchrun: torchrun --nproc-per-node 4 -m ptycho_bluesky.cli train ...
    """
    start_logging()
    from ptycho_bluesky.formats import read_reconstruction
    from ptycho_bluesky.inference import ProbeViTSizes, TrainingOptions, train
    from ptycho_bluesky.inference import cold_start as from_cold

    given: dict[str, Any] = {
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "threads": threads,
        "device": device,
        "bfloat16": bfloat16,
        "validate_every": validate_every,
        "simulated_share": simulated_share,
        "physics": physics,
    }
    check_writable(output)
    if cold_start is not None:
        refused = [name for name, value in (("--probe", probe), ("--reconstruction", reconstruction)) if value]
        if refused or len(data or []) > 1:
            raise InferenceError(f"--cold-start needs one result and at most one --data, not {', '.join(refused)}")
        rec, scan = read_reconstruction(cold_start), None if not data else load_input(data[0])
        seconds = max_seconds or COLD_START_S

        def run(**calls: Any) -> ProbeViTModel:
            return from_cold(output, rec, scan, seconds=seconds, start_from=start_from or "default", **calls)

        _follow(run, output, math.inf, checkpoint, json_output)
        return
    options = TrainingOptions(**{key: value for key, value in given.items() if value is not None})

    def train_it(**calls: Any) -> ProbeViTModel:
        return train(
            output,
            options,
            None if size is None else ProbeViTSizes.of(size),  # type: ignore[arg-type]
            probe=None if probe is None else probe_of(probe),
            pairs=_pairs(data or [], reconstruction or [], probe),
            start_from=start_from,
            **calls,
        )

    _follow(train_it, output, max_seconds or math.inf, checkpoint, json_output)


def _pairs(data: list[str], results: list[Path], probe: str | None) -> TrainingPairs | None:
    """Return the measured frames: with their reconstructions, or with the probe alone."""
    from ptycho_bluesky.formats import read_reconstruction
    from ptycho_bluesky.inference import TrainingPairs

    if len(results) not in (0, len(data)) or (data and not results and probe is None):
        raise InferenceError(
            f"{len(data)} --data and {len(results)} --reconstruction were given; give one result for each, in the same "
            "order, or --probe for frames without any"
        )
    if not data:
        return None
    if not results and probe is not None:
        return TrainingPairs.joined([TrainingPairs.of(load_input(d), probe=probe_of(probe)) for d in data])
    both = zip(data, results, strict=True)
    return TrainingPairs.joined([TrainingPairs.of(load_input(d), read_reconstruction(r)) for d, r in both])


def _follow(
    run: Callable[..., ProbeViTModel], output: Path, max_seconds: float, checkpoint: Path | None, json_output: bool
) -> None:
    """Train with a progress bar, and say what came of it."""
    from ptycho_bluesky.inference import TrainingState

    began, last = time.perf_counter(), TrainingState()
    with progress("training", None) as update, stop_on_interrupt("the model so far") as asked:

        def on_state(state: TrainingState) -> None:
            nonlocal last
            last = state
            update(state.step, f"held-out loss {state.curves['validation_loss'][-1]:.3f}", state.steps)

        model = run(
            checkpoint=checkpoint,
            on_state=on_state,
            should_stop=lambda: asked() or time.perf_counter() - began > max_seconds,
        )
    if os.environ.get("RANK", "0") != "0":  # one process of several speaks
        return
    steps_done = int(model.notes["steps"])
    if steps_done == 0:
        output.unlink()
        raise InferenceError("the training was stopped before its first step; no model was written: give it more time")
    curves = last.curves
    emit(
        {
            "model": model.name,
            "steps": steps_done,
            "seconds": time.perf_counter() - began,
            "validation_loss": curves["validation_loss"][-1] if curves["validation_loss"] else None,
            "validation_correlation": (
                curves["validation_correlation"][-1] if curves["validation_correlation"] else None
            ),
            "output": str(output),
        },
        json_output,
    )
