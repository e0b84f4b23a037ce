"""A network made ready for one run: gate, predictor, and what is needed to tell how far its patches may be believed."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.inference._confidence import Noise, Standard, learn_standard
from ptycho_bluesky.inference._fitting import Fitting
from ptycho_bluesky.inference._gate import FrameGate
from ptycho_bluesky.inference._misfit import Misfit
from ptycho_bluesky.inference._protocol import Model, Patches, Predictor
from ptycho_bluesky.optics import probe_from_info, propagator_for

__all__ = ["Network", "ReadyNetwork"]

REMEMBERED = 4


@runtime_checkable
class FittingPredictor(Protocol):
    """A predictor that brings frames to a network's size itself, and also takes frames of that size."""

    fitting: Fitting


@runtime_checkable
class CentringPredictor(Protocol):
    """A predictor that finds the beam's centre from the frames it is given."""

    def reset_centre(self) -> None:
        """Forget where it was found to be."""
        ...


@dataclass(frozen=True)
class ReadyNetwork:
    """What a run needs to turn its frames into patches."""

    name: str
    gate: FrameGate
    predictor: Predictor
    misfit: Misfit | None
    """For predictors that do not tell it themselves; None where the probe is not known."""
    noise: Noise | None
    """None where the probe is not known."""
    standard: Standard
    scale: float
    """Object pixels for each patch pixel."""

    def __call__(self, frames: npt.NDArray[np.float32]) -> tuple[Patches, npt.NDArray[np.float32]]:
        """Return the patches of `frames` (B, H, W) and their misfits (B,), NaN where they are not known.

        Raises
        ------
        InferenceError
            When the network answers with other shapes than were asked for.
        """
        patches = self.predictor(frames)
        shape = patches.phase.shape
        if len(shape) != 3 or shape[0] != len(frames) or patches.weight.shape != shape[1:]:
            raise InferenceError(
                f"the network returned phase {shape} and weight {patches.weight.shape} for {len(frames)} frames; "
                "allowed are (B, h, w) and (h, w)"
            )
        if patches.misfit is not None:
            return patches, patches.misfit
        if self.misfit is not None:
            return patches, self.misfit(frames, patches)
        return patches, np.full(len(frames), np.nan, np.float32)


class Network:
    """A loaded model under its name; it remembers what it made for the last probes: a run like the last begins at once.

    Parameters
    ----------
    name:
        As it was asked for.
    model:
        The network.
    options:
        Further keywords of ``for_probe``, for models that know them.
    """

    def __init__(self, name: str, model: Model, **options: Any) -> None:
        self.name, self._model, self._options = name, model, options
        self._made: OrderedDict[str, tuple[Predictor, Standard]] = OrderedDict()

    def ready(
        self, metadata: PtychographyMetadata, shape: tuple[int, int], probe_file: str | None, batch: int
    ) -> ReadyNetwork:
        """Return the network ready for frames of `shape` (H, W), its first calls done.

        Raises
        ------
        PtychoError
            When metadata, frames, probe and network do not go together.
        """
        gate, geometry = FrameGate(metadata, shape), metadata.geometry
        if geometry is not None and geometry.modality == "near-field":
            raise InferenceError("networks know the far field alone; its reconstruction will show this scan")
        size, probe = gate.frame_size, _probe(metadata, gate.frame_size, probe_file)
        predictor, standard = self._predictor(probe, gate)
        misfit = noise = None
        if probe is not None:
            fitting = predictor.fitting if isinstance(predictor, FittingPredictor) else Fitting(size, size)
            noise = Noise(fitting.probe(probe), fitting.good(gate.mask))
            misfit = Misfit(probe, propagator_for(geometry, "far-field", size))
        blank = np.zeros((1, size, size), np.float32)
        for count in {batch, 1}:  # first calls allocate, choose kernels
            made = predictor(np.repeat(blank, count, axis=0))
        if made.misfit is not None or misfit is None:  # else it is taken from frames of the detector's size
            gate.follow(predictor)
        return ReadyNetwork(self.name, gate, predictor, misfit, noise, standard, float(made.scale))

    def _predictor(self, probe: npt.NDArray[np.complex64] | None, gate: FrameGate) -> tuple[Predictor, Standard]:
        arrays = (b"" if array is None else array.tobytes() for array in (probe, gate.mask))
        key = hashlib.sha256(repr((gate.pixel_size_m, gate.frame_size)).encode() + b"|".join(arrays)).hexdigest()
        if key not in self._made:
            predictor = self._model.for_probe(
                probe, gate.pixel_size_m, gate.frame_size, mask=gate.mask, **self._options
            )
            standard = Standard()
            if probe is not None and isinstance(predictor, FittingPredictor):
                standard = learn_standard(predictor, predictor.fitting, probe, gate.mask)
            self._made[key] = predictor, standard
        self._made.move_to_end(key)
        while len(self._made) > REMEMBERED:
            self._made.popitem(last=False)
        predictor, standard = self._made[key]
        if isinstance(predictor, CentringPredictor):  # simulated frames, and another run's, say nothing of this one's
            predictor.reset_centre()
        return predictor, standard


def _probe(metadata: PtychographyMetadata, size: int, file: str | None) -> npt.NDArray[np.complex64] | None:
    """Return the probe (modes, size, size) of a file, or as the metadata tell it; None where nothing does."""
    if file:
        probe = np.load(Path(file), allow_pickle=False).astype(np.complex64)
        probe = probe[None] if probe.ndim == 2 else probe
        if probe.shape[1:] != (size, size):
            raise InferenceError(f"the probe has shape {probe.shape}, frames {size} x {size}; they must agree")
        return np.asarray(probe, np.complex64)
    if metadata.probe is None:
        return None
    return np.asarray(probe_from_info(metadata.probe, metadata.geometry, size), np.complex64)
