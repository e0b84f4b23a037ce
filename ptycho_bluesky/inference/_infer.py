"""A whole dataset through a network: the mosaic, and how fast it came."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.inference._model import ProbeViTModel, PtychoNNModel
from ptycho_bluesky.inference._mosaic import Mosaic, warm_up
from ptycho_bluesky.inference._predictors import PlainPredictor, ProbePredictor
from ptycho_bluesky.inference.backends import BackendOptions

__all__ = ["InferenceResult", "infer"]

CALIBRATED = 200
"""Frames that a calibration may look at."""


@dataclass(frozen=True)
class InferenceResult:
    """The image that a network made of a dataset."""

    phase: npt.NDArray[np.float32]
    """(Y, X) radians, NaN where nothing was measured."""

    amplitude: npt.NDArray[np.float32]
    """(Y, X), NaN where nothing was measured."""

    coverage: npt.NDArray[np.float32]
    """(Y, X) sum of the patches' weights."""

    origin: tuple[float, float]
    """Position (row, column) of the first pixel's patch corner, in metres, or object pixels where no size is known."""

    pixel_size: float
    """Side of a pixel in metres, or in object pixels of the dataset."""

    frames: int
    """Frames in the image."""

    refused: int
    """Frames that could not be used: not finite, negative or without a count."""

    seconds: float
    """From the first frame read to the last patch placed."""

    latencies_ms: npt.NDArray[np.float64]
    """(frames,) from a frame in hand to its patch in the mosaic."""

    backend: str
    """What computed it."""

    precision: str
    """Numbers it computed with."""

    model: str
    """Name and content hash of the model."""

    def report(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        p50, p95 = (float(v) for v in np.percentile(self.latencies_ms, [50, 95])) if self.frames else (0.0, 0.0)
        return {
            "frames": self.frames,
            "frames_refused": self.refused,
            "frames_per_second": round(self.frames / self.seconds, 2) if self.seconds > 0 else 0.0,
            "backend": self.backend,
            "precision": self.precision,
            "latency_ms_p50": round(p50, 3),
            "latency_ms_p95": round(p95, 3),
            "model": self.model,
            "mosaic_shape": list(self.phase.shape),
            "pixel_size": self.pixel_size,
        }

    def save(self, path: Path) -> None:
        """Write an .npz: ``phase``, ``amplitude``, ``coverage``, ``origin``, ``pixel_size``, ``report`` (JSON)."""
        with path.open("wb") as file:
            np.savez(
                file,
                phase=self.phase,
                amplitude=self.amplitude,
                coverage=self.coverage,
                origin=np.array(self.origin),
                pixel_size=self.pixel_size,
                report=json.dumps(self.report()),
            )


def infer(
    dataset: PtychoDataset,
    model: ProbeViTModel | PtychoNNModel,
    *,
    probe: npt.NDArray[np.complex64] | None = None,
    batch: int = 8,
    backend: BackendOptions | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> InferenceResult:
    """Return the image that `model` makes of `dataset`, frame by frame as a live scan would.

    Parameters
    ----------
    dataset:
        Far field.
    model:
        From ``load_model``.
    probe:
        (modes, H, W); None for the dataset's.
    batch:
        Frames for one call of the network.
    backend:
        What computes the network, "auto" for the fastest here; None: torch in single precision.
    on_progress:
        Called with (frames done, frames in all) after each batch.
    should_stop:
        Asked before each batch; when it says yes, the image so far is returned.

    Raises
    ------
    InferenceError
        When the dataset is a near-field one, when the network needs a probe and there is none, when the backend cannot
        be had, or no frame is usable.
    DatasetError
        When the dataset is not valid.
    """
    dataset = dataset.validate()
    if dataset.modality != "far-field":
        raise InferenceError(
            f"dataset {dataset.name or '(unnamed)'} is a {dataset.modality} one; the networks know the far field "
            "(diffraction patterns) only: reconstruct it iteratively"
        )
    if batch < 1:
        raise InferenceError(f"batch is {batch}; it must be at least 1")
    height = dataset.frame_shape[0]
    predictor = _predictor(dataset, model, probe, backend)
    warm_up()
    predictor(np.ones((min(batch, len(dataset)), height, height), np.float32))  # first calls allocate
    grid, mosaic, refused, latencies = dataset.object_grid(), Mosaic(), 0, []
    good = None if dataset.mask is None else ~dataset.mask
    first_patch: tuple[float, tuple[float, float]] | None = None
    begun = time.perf_counter()
    for chosen, raw in dataset.batches(batch):
        if should_stop is not None and should_stop():
            break
        taken = time.perf_counter()
        frames = np.where(good, raw, 0).astype(np.float32) if good is not None else raw.astype(np.float32)
        usable = np.isfinite(frames).all(axis=(1, 2)) & (frames >= 0).all(axis=(1, 2)) & (frames > 0).any(axis=(1, 2))
        refused += int((~usable).sum())
        if usable.any():
            patches = predictor(frames[usable])
            first_patch = patches.scale, patches.offset
            for k, corner in enumerate(grid.corners[chosen][usable]):
                place = [(c + o) / patches.scale for c, o in zip(corner, patches.offset, strict=True)]
                amplitude = None if patches.amplitude is None else patches.amplitude[k]
                mosaic.add(patches.phase[k], amplitude, patches.weight, (place[0], place[1]))
            latencies += [(time.perf_counter() - taken) * 1e3] * int(usable.sum())
        if on_progress is not None:
            on_progress(chosen.stop, len(dataset))
    seconds = time.perf_counter() - begun
    if first_patch is None:
        raise InferenceError(
            f"dataset {dataset.name or '(unnamed)'} gave no image: {refused} frames are not finite, negative or empty"
        )
    phase, amplitude_map, coverage, _ = mosaic.maps(level=True)
    scale = first_patch[0]
    rows, columns = (grid.origin[a] + mosaic.field[2 * a] * scale * grid.pixel_size for a in (0, 1))
    return InferenceResult(
        phase=phase,
        amplitude=amplitude_map,
        coverage=coverage,
        origin=(rows, columns),
        pixel_size=scale * grid.pixel_size,
        frames=len(latencies),
        refused=refused,
        seconds=seconds,
        latencies_ms=np.array(latencies),
        backend=predictor.engine.name,
        precision=predictor.engine.precision,
        model=f"{model.name} {model.content_hash[:12]}",
    )


def _predictor(
    dataset: PtychoDataset,
    model: ProbeViTModel | PtychoNNModel,
    probe: npt.NDArray[np.complex64] | None,
    backend: BackendOptions | str | None,
) -> ProbePredictor | PlainPredictor:
    probe, pixel, size = dataset.probe if probe is None else probe, dataset.pixel_size_m, dataset.frame_shape[0]
    if isinstance(model, ProbeViTModel):
        return model.for_probe(probe, pixel, size, mask=dataset.mask, backend=backend)
    measured = np.asarray(dataset.frames[:CALIBRATED], np.float32)  # int8 takes its ranges from these
    return model.for_probe(probe, pixel, size, mask=dataset.mask, backend=backend, calibration=measured)
