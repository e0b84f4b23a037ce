"""From options to a model file: the one way in which models are made, the shipped one too."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._fitting import fit_probe
from ptycho_bluesky.inference._model import ProbeViTModel, load_model
from ptycho_bluesky.inference._simulation import PHOTONS
from ptycho_bluesky.inference._training import train_network
from ptycho_bluesky.inference._training_options import TrainingOptions, TrainingState
from ptycho_bluesky.inference._vit import ProbeViTSizes

__all__ = ["train"]


def train(
    output: str | Path,
    options: TrainingOptions | None = None,
    sizes: ProbeViTSizes | None = None,
    *,
    probe: npt.NDArray[np.complex64] | None = None,
    checkpoint: str | Path | None = None,
    on_state: Callable[[TrainingState], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ProbeViTModel:
    """Train a ProbeViT on simulated frames, write its model file and return it as loaded from there.

    Parameters
    ----------
    output:
        Model file to write, ``.safetensors``.
    options, sizes:
        How to train, and the network's shape; None for the defaults.
    probe:
        (modes, H, W) of one beamline, of any frame size: train for it and its like (a cold start without any data);
        None for probes of all kinds.
    checkpoint:
        Written at every validation; a training that finds it goes on from there.
    on_state:
        Called at every validation.
    should_stop:
        Asked at every step; when it says yes, the model is written as it is.

    Raises
    ------
    InferenceError
        When the probe does not fit the network, the checkpoint belongs to another training, or it diverges.
    """
    output, options, sizes = Path(output), options or TrainingOptions(), sizes or ProbeViTSizes()
    if output.suffix != ".safetensors":
        raise InferenceError(f"the model file is {output}; its name must end in .safetensors")
    fitted = None
    if probe is not None:
        if probe.ndim != 3 or probe.shape[1] != probe.shape[2]:
            raise InferenceError(f"the probe has shape {probe.shape}; allowed is (modes, H, H)")
        fitted = fit_probe(probe, probe.shape[-1], sizes.size).probe(probe)
    network, state = train_network(
        options,
        sizes,
        probe=fitted,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        on_state=on_state,
        should_stop=should_stop,
    )
    last = {name: values[-1] for name, values in state.curves.items() if values}
    beams = "random probes (zone plates, mirrors, pinholes)" if probe is None else "one beamline's probe"
    notes = {
        "data": f"simulated: random specimens; {PHOTONS[0]:.0e} to {PHOTONS[1]:.0e} photons a frame; dead, hot and "
        f"masked pixels; frames off centre; probe unlike its design; {beams}",
        "options": options.model_dump(mode="json"),
        "steps": state.step,
        "validation": last,
        "curves": state.curves,
        "versions": {
            "ptycho-bluesky": version("ptycho-bluesky"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
    ProbeViTModel(output.stem, network, "", notes).save(output)
    trained = load_model(output)
    if not isinstance(trained, ProbeViTModel):
        raise InferenceError(f"{output} did not come back as a ProbeViT")
    return trained
