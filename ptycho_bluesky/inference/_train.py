"""From options to a model file: the one way in which models are made, the shipped one too."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._conditions import PHOTONS, Conditions
from ptycho_bluesky.inference._model import ProbeViTModel, load_model
from ptycho_bluesky.inference._pairs import TrainingPairs
from ptycho_bluesky.inference._predictors import SLOPE
from ptycho_bluesky.inference._training import train_network
from ptycho_bluesky.inference._training_options import TrainingOptions, TrainingState
from ptycho_bluesky.inference._vit import ProbeViTSizes

__all__ = ["train"]

ONE_BEAMLINE_SLOPE = 1.0
"""Share of a patch's mean phase slope that is kept where the network was trained for its probe, and so tells it well
enough: of the measured star's mosaic the correlation rises from 0.962 to 0.966, the rms error falls by 5 %."""


def train(
    output: str | Path,
    options: TrainingOptions | None = None,
    sizes: ProbeViTSizes | None = None,
    *,
    probe: npt.NDArray[np.complex64] | None = None,
    conditions: Conditions | None = None,
    pairs: TrainingPairs | None = None,
    start_from: str | Path | ProbeViTModel | None = None,
    checkpoint: str | Path | None = None,
    on_state: Callable[[TrainingState], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ProbeViTModel:
    """Train a ProbeViT, write its model file and return it as loaded from there.

    Frames are simulated, of all kinds of beamlines or of one; or measured, with their reconstruction or without; or
    both, as ``options.simulated_share`` says.

    Parameters
    ----------
    output:
        Model file to write, ``.safetensors``.
    options, sizes:
        How to train, and the network's shape; None for the defaults, or the shape of `start_from`.
    probe:
        (modes, H, H) of one beamline: short for ``conditions=Conditions.of(probe, reconstructed=False)``.
    conditions:
        Simulate this beamline's frames. None: those of `pairs`, or all kinds of beamlines.
    pairs:
        Measured frames.
    start_from:
        A model, its name or its file, whose weights to begin with.
    checkpoint:
        Written at every validation; a training that finds it goes on from there.
    on_state:
        Called at every validation.
    should_stop:
        Asked at every step; when it says yes, the model is written as it is.

    Raises
    ------
    InferenceError
        When the arguments do not fit each other, the checkpoint belongs to another training, or it diverges.
    """
    output, options = Path(output), options or TrainingOptions()
    if output.suffix != ".safetensors":
        raise InferenceError(f"the model file is {output}; its name must end in .safetensors")
    if conditions is None and probe is not None:
        conditions = Conditions.of(probe, reconstructed=False)
    if conditions is None and pairs is not None:
        conditions = pairs.conditions()
    begun = start_from if start_from is None or isinstance(start_from, ProbeViTModel) else load_model(start_from)
    if begun is not None and not isinstance(begun, ProbeViTModel):
        raise InferenceError(f"{start_from} is a PtychoNN, which is not trained here; start from a ProbeViT")
    began = time.process_time()
    network, state = train_network(
        options,
        sizes,
        conditions=conditions,
        pairs=pairs,
        start_from=None if begun is None else begun.network,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        on_state=on_state,
        should_stop=should_stop,
    )
    notes = {
        "data": _described(conditions, pairs, options),
        "options": options.model_dump(mode="json"),
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "cpu_seconds": round(time.process_time() - began, 1),
        "validation": {name: values[-1] for name, values in state.curves.items() if values},
        "curves": state.curves,
        "conditions": None if conditions is None else conditions.to_json(),
        "start_from": None if begun is None else begun.content_hash,
        "slope": ONE_BEAMLINE_SLOPE if conditions is not None or pairs is not None else SLOPE,
        "versions": {
            "ptycho-bluesky": version("ptycho-bluesky"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
    made = ProbeViTModel(output.stem, network, "", notes)
    if os.environ.get("RANK", "0") != "0":  # under torchrun all have the same weights, and the first one writes
        return made
    made.save(output)
    trained = load_model(output)
    if not isinstance(trained, ProbeViTModel):
        raise InferenceError(f"{output} did not come back as a ProbeViT")
    return trained


def _described(conditions: Conditions | None, pairs: TrainingPairs | None, options: TrainingOptions) -> str:
    """Return in words what the network was trained on."""
    parts = []
    if pairs is not None:
        known = "with their reconstruction" if pairs.objects is not None else "by the forward model alone"
        parts.append(f"measured: {len(pairs)} frames {known}")
    if pairs is None or options.simulated_share > 0:
        low, high = PHOTONS if conditions is None else conditions.photons
        beams = "random probes (zone plates, mirrors, pinholes)" if conditions is None else "one beamline's probe"
        parts.append(
            f"simulated: random specimens; {low:.0e} to {high:.0e} photons a frame; dead, hot and masked pixels; "
            f"frames off centre; probe unlike its design; {beams}"
        )
    return "; ".join(parts)
