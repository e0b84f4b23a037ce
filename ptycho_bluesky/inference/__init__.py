"""Networks, their training, and the edge process: from frames to patches to the growing image.

``load_model()`` gives the model that comes with the package (or a published PtychoNN, or one that ``train`` made);
``model.for_probe(...)`` makes it ready for a beam; the predictor turns frames into :class:`Patches`, which a
:class:`Mosaic` puts together. :func:`infer` does all of this for a dataset.
"""

from ptycho_bluesky.inference._cold_start import cold_start
from ptycho_bluesky.inference._conditions import Conditions
from ptycho_bluesky.inference._infer import InferenceResult, infer
from ptycho_bluesky.inference._model import (
    DEFAULT_MODEL,
    IN_SERVICE,
    LoadedModel,
    ProbeViTModel,
    PtychoNNModel,
    load_model,
)
from ptycho_bluesky.inference._mosaic import Mosaic
from ptycho_bluesky.inference._pairs import TrainingPairs
from ptycho_bluesky.inference._protocol import Model, Patches, Predictor
from ptycho_bluesky.inference._ptychonn import PtychoNN, PtychoNNPhase
from ptycho_bluesky.inference._train import train
from ptycho_bluesky.inference._training_options import TrainingOptions, TrainingState
from ptycho_bluesky.inference._trial import Trial, TrialOptions, hold_out, trial
from ptycho_bluesky.inference._vit import ProbeViT, ProbeViTSizes

__all__ = [
    "DEFAULT_MODEL",
    "IN_SERVICE",
    "Conditions",
    "InferenceResult",
    "LoadedModel",
    "Model",
    "Mosaic",
    "Patches",
    "Predictor",
    "ProbeViT",
    "ProbeViTModel",
    "ProbeViTSizes",
    "PtychoNN",
    "PtychoNNModel",
    "PtychoNNPhase",
    "TrainingOptions",
    "TrainingPairs",
    "TrainingState",
    "Trial",
    "TrialOptions",
    "cold_start",
    "hold_out",
    "infer",
    "load_model",
    "train",
    "trial",
]
