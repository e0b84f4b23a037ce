"""From an engine's last state to a Reconstruction: free scale and tilt settled, coverage, metrics, provenance."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import PtychoDataset, Reconstruction, phase_contrast
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._state import EngineState

__all__ = ["coverage", "finish", "phase_and_amplitude", "provenance_of", "settled", "software_versions"]


def coverage(problem: Problem, model: Model) -> npt.NDArray[np.float32]:
    """Return (Y, X), the illumination summed over all frames, on a scale where 1 is a well illuminated pixel.

    The unit is the 90th percentile of what the scanned pixels received, and 1 the largest value: a place where the
    beam rested does not darken the rest.
    """
    size, intensity = model.probe.shape[-1], (np.abs(model.probe) ** 2).sum(axis=1)
    total = np.zeros(problem.grid.shape, np.float32)
    for (y, x), number in zip(np.rint(model.corners).astype(np.int64), problem.sets, strict=True):
        total[y : y + size, x : x + size] += intensity[number]
    seen = total > 0.01 * total.max()
    return np.asarray(np.minimum(total / np.percentile(total[seen], 90), 1), dtype=np.float32)


def settled(problem: Problem, model: Model) -> Model:
    """Return the same solution with what the data leave free set by convention.

    Scale: ``sum |probe|**2`` is the mean number of counts in a frame. Tilt (far field): a linear phase ramp of the
    object, which a shift of the whole pattern on the detector causes, moves over to the probe; each frame keeps its
    intensity exactly.
    """
    obj, probe, variation = model.object, model.probe, model.variation
    if problem.propagator.reciprocal:
        weight, size = coverage(problem, model), probe.shape[-1]
        slopes = []
        for axis, length in enumerate(obj.shape[1:]):
            ahead = np.roll(obj[0], -1, axis) * obj[0].conj() * weight * np.roll(weight, -1, axis)
            slopes.append(float(np.angle(ahead.take(np.arange(length - 1), axis).sum(dtype=np.complex128))))

        def ramp(shape: tuple[int, ...], sign: int) -> ComplexArray:
            y, x = (np.exp(sign * 1j * s * np.arange(n)) for s, n in zip(slopes, shape, strict=True))
            return np.asarray(y[:, None] * x[None], np.complex64)

        obj = np.concatenate([obj[:1] * ramp(obj.shape[1:], -1), obj[1:]])
        probe = probe * ramp((size, size), 1)
        if variation is not None:
            variation = replace(variation, modes=variation.modes * ramp((size, size), 1))
    scale = np.float32(np.sqrt(problem.mean_counts / float((np.abs(probe[0]) ** 2).sum(dtype=np.float64))))
    if variation is not None:
        variation = replace(variation, modes=variation.modes * scale)
    first = np.asarray(obj[:1] / scale, np.complex64)
    return replace(model, object=np.concatenate([first, obj[1:]]), probe=probe * scale, variation=variation)


def phase_and_amplitude(state: EngineState) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return phase (radians) and amplitude (Y, X) of an engine's state, as a result would have them."""
    model = settled(state.problem, state.model)
    image = Reconstruction(
        object=model.object,
        probe=model.probe[0],
        positions=np.zeros((0, 2)),
        coverage=coverage(state.problem, model),
        origin=state.problem.grid.origin,
        pixel_size_m=None,
        errors=np.zeros(0),
        r_factor=state.r_factor,
        phase_contrast_rad=0.0,
        engine="",
    )
    return image.phase, image.amplitude


def software_versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in ("ptycho-bluesky", "numpy", "scipy", "numba", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # torch or a transform that this machine goes without
            continue
    return versions


def provenance_of(
    dataset: PtychoDataset, state: EngineState, device: str, seconds: float, stopped: str, messages: list[str]
) -> dict[str, Any]:
    """Return how a result came about: frames, software, machine, timings, why it stopped early if it did."""
    return {
        "dataset": dataset.name,
        "frames_used": int(state.problem.used.sum()),
        "frames_left_out": int((~state.problem.used).sum()),
        "software": software_versions(),
        "host": platform.node(),
        "device": device,
        "ranks": 1,
        "kernels": state.kernels.name,
        "epochs": state.epoch,
        "seconds": round(seconds, 4),
        "seconds_iterating": round(state.seconds, 4),
        "seconds_per_epoch": round(state.seconds / state.epoch, 5),
        "stopped_early": stopped or None,
        "messages": messages,
        "geometry": None if dataset.geometry is None else dataset.geometry.model_dump(mode="json"),
    }


def _positions(dataset: PtychoDataset, problem: Problem, model: Model) -> npt.NDArray[np.float64]:
    """Return (frames of the dataset, 2): refined positions; as given where a frame was left out."""
    positions = np.array(dataset.positions, np.float64)
    positions[problem.used] += (model.corners - problem.grid.corners[problem.used]) * problem.grid.pixel_size
    return positions


def finish(
    dataset: PtychoDataset,
    state: EngineState,
    r_factor: float,
    errors: list[float],
    engine: str,
    parameters: dict[str, Any],
    provenance: dict[str, Any],
) -> Reconstruction:
    """Return the result of an engine's last state."""
    problem, model = state.problem, settled(state.problem, state.model)
    background, variation = model.background, model.variation
    weights = None
    if variation is not None:
        weights = np.zeros((len(problem.used), variation.weights.shape[1]), np.float32)
        weights[problem.used] = variation.weights
    if background is not None and problem.propagator.reciprocal:
        background = np.fft.fftshift(background)
    result = Reconstruction(
        object=model.object,
        probe=model.probe[0],
        positions=_positions(dataset, problem, model),
        coverage=coverage(problem, model),
        origin=problem.grid.origin,
        pixel_size_m=dataset.pixel_size_m,
        errors=np.asarray(errors, np.float64),
        r_factor=r_factor,
        phase_contrast_rad=0.0,
        engine=engine,
        modality=dataset.modality,
        parameters=parameters,
        provenance=provenance,
        opr_modes=None if variation is None else variation.modes,
        opr_weights=weights,
        background=background,
    )
    object.__setattr__(result, "phase_contrast_rad", phase_contrast(result.phase))
    return result
