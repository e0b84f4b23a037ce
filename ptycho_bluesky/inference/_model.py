"""Models: a network with its weights and its history, loaded from a file and made ready for a probe."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import FormatError, InferenceError
from ptycho_bluesky.inference._fitting import Fitting, fit_probe
from ptycho_bluesky.inference._predictors import (
    SLOPE,
    PlainPredictor,
    ProbePredictor,
    checked_mask,
    checked_probe,
    trust,
)
from ptycho_bluesky.inference._protocol import Predictor
from ptycho_bluesky.inference._ptychonn import PtychoNN, published_network
from ptycho_bluesky.inference._vit import ProbeViT, ProbeViTSizes
from ptycho_bluesky.inference._weights import read_weights, write_weights
from ptycho_bluesky.inference.backends import BackendOptions, plain_engine, probe_engine

__all__ = ["DEFAULT_MODEL", "IN_SERVICE", "LoadedModel", "ProbeViTModel", "PtychoNNModel", "load_model"]

DEFAULT_MODEL = "default"
"""Name of the model that comes with the package."""

IN_SERVICE = "in-service"
"""Name of the model that the live image uses, as ``<home>/models/in-service.json`` says."""

SHIPPED = Path(__file__).parent / "weights"


class LoadedModel(Protocol):
    """What every loaded model has, beside being a :class:`Model`."""

    name: str
    """For titles and messages."""

    content_hash: str
    """SHA-256 of architecture and weights."""

    notes: dict[str, Any]
    """How it was trained and how good it is, as far as its file says."""

    def for_probe(
        self,
        probe: npt.NDArray[np.complex64] | None,
        pixel_size_m: float | None,
        frame_size: int,
        /,
        *,
        mask: npt.NDArray[np.bool_] | None = None,
        backend: BackendOptions | str | None = None,
    ) -> Predictor:
        """Return the predictor for a probe.

        Parameters
        ----------
        probe:
            (modes, H, W); None where the network needs none.
        pixel_size_m:
            Object pixel, metres; None for positions in pixels.
        frame_size:
            Side of the frames, pixels.
        mask:
            (H, W) True = bad.
        backend:
            What computes it, "auto" for the fastest here; None: torch in single precision.
        """
        ...


@dataclass(frozen=True)
class ProbeViTModel:
    """ProbeViT with its weights: amplitude and phase from a frame and the probe."""

    name: str
    network: ProbeViT
    content_hash: str
    notes: dict[str, Any] = field(default_factory=dict)

    def for_probe(
        self,
        probe: npt.NDArray[np.complex64] | None,
        pixel_size_m: float | None,
        frame_size: int,
        /,
        *,
        mask: npt.NDArray[np.bool_] | None = None,
        backend: BackendOptions | str | None = None,
    ) -> ProbePredictor:
        """Return the predictor for a probe.

        Frames larger than the network's are binned as far as the beam leaves room, then cropped; smaller ones are
        filled up with unmeasured pixels. ``Patches.scale`` and ``offset`` say what that does to the object's pixels.

        Parameters
        ----------
        probe:
            (modes, H, W), strongest first; its scale does not matter. Three modes are used.
        pixel_size_m:
            Not needed: everything is in pixels.
        frame_size:
            Side of the frames, pixels.
        mask:
            (H, W) True = bad pixel.
        backend:
            What computes it, "auto" for the fastest here; None: torch in single precision.

        Raises
        ------
        InferenceError
            When the probe is missing or does not fit the frames, or the backend cannot be had.
        """
        if probe is None:
            raise InferenceError(
                f"model {self.name!r} needs the probe, and none is known: give one in the run's metadata (ProbeInfo), "
                "a probe file, or use a network of the PtychoNN kind"
            )
        probe = checked_probe(probe, frame_size)[:3]
        fitting = fit_probe(probe, frame_size, self.network.sizes.size)
        fitted, good = fitting.probe(probe), fitting.good(checked_mask(mask, frame_size))
        engine = probe_engine(self.network, fitted, good, backend, self.content_hash[:20])
        return ProbePredictor(engine, fitting, fitted, good, float(self.notes.get("slope", SLOPE)))

    def save(self, path: Path) -> str:
        """Write the model file and return its content hash."""
        weights = {k: v.detach().cpu().numpy() for k, v in self.network.state_dict().items()}
        return write_weights(path, weights, _architecture(self.network), self.notes)


@dataclass(frozen=True)
class PtychoNNModel:
    """A published PtychoNN with its weights: raw counts in, the probe of its training built in."""

    name: str
    network: PtychoNN
    content_hash: str
    notes: dict[str, Any] = field(default_factory=dict)

    def for_probe(
        self,
        probe: npt.NDArray[np.complex64] | None,
        pixel_size_m: float | None,
        frame_size: int,
        /,
        *,
        mask: npt.NDArray[np.bool_] | None = None,
        backend: BackendOptions | str | None = None,
        binning: int | None = None,
        calibration: npt.NDArray[np.float32] | None = None,
    ) -> PlainPredictor:
        """Return the predictor; `probe` weighs the pixels of a patch (None: a Hann window) and tells its misfit.

        Frames are binned, then cropped or filled up to the size the network was trained on; bad pixels count 0.

        Parameters
        ----------
        probe, pixel_size_m, frame_size, mask, backend:
            As for :meth:`ProbeViTModel.for_probe`; the probe may be None.
        binning:
            Detector pixels added up along each axis, as in the network's training (4 for frames of 512 at APS 26-ID);
            None: as many as bring the whole frame to the network's size.
        calibration:
            (K, H, H) measured frames, from which int8 takes its ranges once.

        Raises
        ------
        InferenceError
            When probe, mask or binning do not fit the frames, or the backend cannot be had.
        """
        size = self.network.frame_size
        bins = max(1, frame_size // size) if binning is None else binning
        if not 1 <= bins <= frame_size:
            raise InferenceError(f"binning is {binning}; allowed is 1 to the frames' {frame_size} pixels")
        fitting, fitted = Fitting(frame_size, size, bins), None
        if probe is None:
            hann = np.hanning(size + 1)[:size]
            weight = (hann[:, None] * hann[None]).astype(np.float32)
        else:
            fitted = fitting.probe(checked_probe(probe, frame_size))
            weight = trust(fitted)
        good = fitting.good(checked_mask(mask, frame_size))
        measured = None if calibration is None else fitting.frames(calibration)
        engine = plain_engine(self.network, good, fitted, backend, self.content_hash[:20], measured)
        return PlainPredictor(engine, fitting, weight)


def _architecture(network: ProbeViT) -> dict[str, Any]:
    return {"kind": "probe-vit", **network.sizes.to_json()}


def _own(path: Path, name: str) -> ProbeViTModel:
    weights, architecture, notes, digest = read_weights(path)
    sizes = dict(architecture)
    if (kind := sizes.pop("kind", None)) != "probe-vit":
        raise FormatError(f"model file {path} holds a network of kind {kind!r}; this release knows 'probe-vit'")
    try:
        network = ProbeViT(ProbeViTSizes(**sizes))
        network.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in weights.items()})
    except (TypeError, RuntimeError) as error:
        raise FormatError(f"model file {path} does not hold the weights of its architecture: {error}") from error
    return ProbeViTModel(name, network.eval(), digest, notes)


def _published(path: Path, name: str) -> PtychoNNModel:
    """Load a state dict of the PtychoNN family."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader takes the bytes of a foreign file for instructions: anything may come
        raise FormatError(
            f"{path} is no state dict that can be loaded safely ({type(error).__name__}); give a model file that "
            "'train' wrote, or save one by torch.save(network.state_dict(), path)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise FormatError(f"{path} holds a {type(state).__name__}, not a state dict (names and tensors)")
    state = {k.removeprefix("module."): v for k, v in state.items()}  # DataParallel's prefix
    try:
        network = published_network(state)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + np.ascontiguousarray(state[key].numpy()).tobytes())
    return PtychoNNModel(name, network, digest.hexdigest())


def _in_service() -> str | Path:
    """Return the model that was promoted, or the default's name where none was."""
    pointer = settings().home / "models" / "in-service.json"
    if not pointer.exists():
        return DEFAULT_MODEL
    try:
        return Path(json.loads(pointer.read_text())["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{pointer} does not say which model is in service ({type(error).__name__}: {error}); promote one anew"
        ) from error


def load_model(name_or_path: str | Path = DEFAULT_MODEL) -> ProbeViTModel | PtychoNNModel:
    """Load a model: the one that comes with the package, one by name, or a file.

    Parameters
    ----------
    name_or_path:
        ``"default"``; ``"in-service"``, the promoted one (the default until one is promoted); the name of a file
        ``<name>.safetensors`` in ``<home>/models``; or a path: a model file of this package (``.safetensors``), or a
        state dict of a published PtychoNN (``.pth``, ``.pt``).

    Raises
    ------
    InferenceError
        When there is no such model; the text lists those there are.
    FormatError
        When the file is not a model, of another version, or damaged.
    """
    if str(name_or_path) == IN_SERVICE:
        name_or_path = _in_service()
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        folders = (SHIPPED, settings().home / "models")
        known = {p.stem: p for folder in folders for p in sorted(folder.glob("*.safetensors"))}
        if str(name_or_path) not in known:
            raise InferenceError(
                f"there is no model or model file {str(name_or_path)!r}; there are "
                f"{', '.join(sorted(known)) or 'none'} (in "
                f"{' and '.join(map(str, folders))}); give one of these, or a path"
            )
        path = known[str(name_or_path)]
    with path.open("rb") as file:
        beginning = file.read(16)
    if path.suffix == ".safetensors" or beginning[8:9] == b"{":
        return _own(path, path.stem)
    return _published(path, path.stem)
