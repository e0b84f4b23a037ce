"""From an engine's last state to a Reconstruction: free scale and tilt settled, coverage, metrics, provenance."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import PtychoDataset, Reconstruction, phase_contrast
from ptycho_bluesky.reconstruction._problem import ComplexArray, Model, Problem
from ptycho_bluesky.reconstruction._state import EngineState

__all__ = ["coverage", "finish", "settled", "software_versions"]


def coverage(problem: Problem, probe: ComplexArray) -> npt.NDArray[np.float32]:
    """Return (Y, X), the illumination summed over all frames, on a scale where 1 is a well illuminated pixel.

    The unit is the 90th percentile of what the scanned pixels received, and 1 the largest value: a place where the
    beam rested does not darken the rest.
    """
    size, intensity = probe.shape[-1], (np.abs(probe) ** 2).sum(axis=0)
    total = np.zeros(problem.grid.shape, np.float32)
    for y, x in np.rint(problem.corners).astype(np.int64):
        total[y : y + size, x : x + size] += intensity
    seen = total > 0.01 * total.max()
    return np.asarray(np.minimum(total / np.percentile(total[seen], 90), 1), dtype=np.float32)


def settled(problem: Problem, model: Model) -> Model:
    """Return the same solution with what the data leave free set by convention.

    Scale: ``sum |probe|**2`` is the mean number of counts in a frame. Tilt (far field): a linear phase ramp of the
    object, which a shift of the whole pattern on the detector causes, moves over to the probe; each frame keeps its
    intensity exactly.
    """
    obj, probe = model.object, model.probe
    if problem.propagator.reciprocal:
        weight = coverage(problem, probe)
        size = probe.shape[-1]
        ramps = []
        for axis, length in enumerate(obj.shape):
            ahead = np.roll(obj, -1, axis) * obj.conj() * weight * np.roll(weight, -1, axis)
            slope = float(np.angle(ahead.take(np.arange(length - 1), axis).sum(dtype=np.complex128)))
            ramps.append((np.exp(-1j * slope * np.arange(length)), np.exp(1j * slope * np.arange(size))))
        (object_y, probe_y), (object_x, probe_x) = ramps
        obj = obj * (object_y[:, None] * object_x[None]).astype(np.complex64)
        probe = probe * (probe_y[:, None] * probe_x[None]).astype(np.complex64)
    scale = np.float32(np.sqrt(problem.mean_counts / float((np.abs(probe) ** 2).sum(dtype=np.float64))))
    return Model(np.asarray(obj / scale, np.complex64), np.asarray(probe * scale, np.complex64))


def software_versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in ("ptycho-bluesky", "numpy", "scipy", "numba", "rocket-fft", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # torch or a transform that this machine goes without
            continue
    return versions


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
    result = Reconstruction(
        object=model.object[None],
        probe=model.probe,
        positions=dataset.positions,
        coverage=coverage(problem, model.probe),
        origin=problem.grid.origin,
        pixel_size_m=dataset.pixel_size_m,
        errors=np.asarray(errors, np.float64),
        r_factor=r_factor,
        phase_contrast_rad=0.0,
        engine=engine,
        modality=dataset.modality,
        parameters=parameters,
        provenance=provenance,
    )
    object.__setattr__(result, "phase_contrast_rad", phase_contrast(result.phase))
    return result
