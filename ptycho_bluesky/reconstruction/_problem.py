"""From a dataset to what the kernels work on: amplitudes, corners, a start for object and probe."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import psutil
import scipy.fft

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import ObjectGrid, PtychoDataset
from ptycho_bluesky.optics import NearField, NearFieldMethod, Propagator, propagator_for
from ptycho_bluesky.reconstruction._amplitudes import (
    Amplitudes,
    MemoryAmplitudes,
    StreamedAmplitudes,
    amplitudes_of,
)
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._modes import with_modes

__all__ = ["Problem", "Survey", "first_probe", "prepare", "survey"]

logger = logging.getLogger(__name__)

SHARE_OF_MEMORY = 0.1
"""Of the memory that is free, what amplitudes may take before they are streamed."""


@dataclass(frozen=True)
class Problem:
    """Everything that stays fixed during a reconstruction."""

    amplitudes: Amplitudes
    """Of the N used frames."""

    sets: npt.NDArray[np.int64]
    """(N,) the probe of each frame, an index of the first axis of ``Model.probe``."""

    grid: ObjectGrid
    """Of all frames of the dataset, used or not."""

    used: npt.NDArray[np.bool_]
    """(frames of the dataset,) True where the frame is among the N used ones."""

    propagator: Propagator
    start: Model
    mean_counts: float
    """Mean counts of a frame, over good pixels."""

    slice_distance_m: float | None = None
    """Between neighbouring slices of a thick object; None for a thin one."""

    wavelength_m: float | None = None
    """None where no geometry is known."""

    def __len__(self) -> int:
        return len(self.amplitudes)

    @property
    def begins_empty(self) -> bool:
        """Whether nothing is known of the object yet."""
        return bool((self.start.object == 1).all())

    @property
    def transfer(self) -> ComplexArray:
        """(H, W) transfer function of the near field, (0, 0) in the far field."""
        if isinstance(self.propagator, NearField):
            return self.propagator.transfer
        return np.empty((0, 0), np.complex64)

    @property
    def total(self) -> float:
        """Sum of all good amplitudes."""
        return self.amplitudes.total

    def groups(self, model: Model, divisions: int) -> ProbeGroups:
        """Return the groups of frames for corners rounded to ``1 / divisions`` of a pixel."""
        return ProbeGroups.of(model.corners, divisions, self.sets)


def _guess(mean: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_], propagator: Propagator) -> ComplexArray:
    """Return (1, H, W): the square root of the mean frame, propagated back to the sample."""
    filled = np.sqrt(mean)
    filled[mask] = np.median(filled[~mask])
    wave = propagator.backward(filled.astype(np.complex64))
    return np.asarray(scipy.fft.fftshift(wave) if propagator.reciprocal else wave, dtype=np.complex64)[None]


def _power(probe: ComplexArray, mask: npt.NDArray[np.bool_], propagator: Propagator) -> float:
    """Return the photons that a probe (M, H, W) alone sends to the good pixels."""
    intensity = (np.abs(propagator.forward(probe)) ** 2).sum(axis=0)
    return float(intensity[~mask].sum(dtype=np.float64))


@dataclass
class Survey:
    """One pass over all frames: which can be used, their mean, and their amplitudes where these fit into memory."""

    used: npt.NDArray[np.bool_]
    """(frames of the dataset,)."""

    mean: npt.NDArray[np.float64]
    """(H, W) counts, as the frames hold them."""

    total: float
    """Sum of the good amplitudes, where these are not in memory."""

    amplitude: npt.NDArray[np.float32] | None
    """Of the used frames."""


def survey(dataset: PtychoDataset, reciprocal: bool, memory_bytes: float) -> Survey:
    """Read all frames once; keep their amplitudes where these take no more than `memory_bytes`."""
    count, size = len(dataset), dataset.frame_shape[0]
    used, mean, total, place = np.zeros(count, bool), np.zeros((size, size)), 0.0, 0
    amplitude = np.empty((count, size, size), np.float32) if 4 * count * size**2 <= memory_bytes else None
    for chosen, frames in dataset.batches():
        counts = np.where(dataset.mask, 0, frames) if dataset.mask is not None else frames
        flat = counts.reshape(len(counts), -1)
        sums, least = flat.sum(axis=1, dtype=np.float64), flat.min(axis=1)
        used[chosen] = np.isfinite(sums) & (least >= 0) & (sums > 0)
        counts = counts if used[chosen].all() else counts[used[chosen]]
        mean += counts.sum(axis=0, dtype=np.float64)
        roots = amplitudes_of(counts, dataset.mask, reciprocal)
        if amplitude is None:
            total += float(np.maximum(roots, 0).sum(dtype=np.float64))
        else:
            amplitude[place : place + len(roots)] = roots
            place += len(roots)
    return Survey(used, mean / max(1, used.sum()), total, None if amplitude is None else amplitude[:place])


def first_probe(
    dataset: PtychoDataset, mean: npt.NDArray[np.float64], propagator: Propagator, modes: int
) -> tuple[ComplexArray, float]:
    """Return (modes, H, W), the dataset's probe or a guess, on the scale of the mean frame, and the counts of that.

    Parameters
    ----------
    dataset:
        Its probe and mask; frames are not read.
    mean:
        (H, W) mean of the frames, as they hold it.
    propagator:
        From sample to detector.
    modes:
        How many.

    Raises
    ------
    ReconstructionError
        When the probe is not finite, or empty on the good pixels.
    """
    mask = np.zeros(mean.shape, bool) if dataset.mask is None else dataset.mask
    if propagator.reciprocal:
        mean, mask = scipy.fft.ifftshift(mean), scipy.fft.ifftshift(mask)
    probe = _guess(mean, mask, propagator) if dataset.probe is None else dataset.probe.astype(np.complex64)
    power = _power(probe, mask, propagator)
    if not (np.isfinite(power) and power > 0):
        raise ReconstructionError(
            f"dataset {dataset.name or '(unnamed)'}: the probe's intensity on the good pixels sums to {power}; it must "
            "be finite and above 0: mend the probe, or leave it out to have it guessed from the mean frame"
        )
    factor = float(np.sqrt(mean.sum() / power))
    if abs(factor - 1) > 0.01:
        logger.info("probe scaled by %.4g to the %.4g counts of a mean frame", factor, mean.sum())
    probe = with_modes(np.asarray(probe * factor, np.complex64), modes)
    probe *= np.float32(np.sqrt(mean.sum() / _power(probe, mask, propagator)))
    return probe, float(mean.sum())


def prepare(
    dataset: PtychoDataset,
    modes: int,
    *,
    margin: int = 16,
    memory_gb: float | None = None,
    slices: int = 1,
    slice_distance_m: float | None = None,
    near_field: NearFieldMethod = "fresnel",
) -> Problem:
    """Check a dataset and bring it into the kernels' form.

    Frames that are not finite, negative or empty are left out, with a warning that counts them. The probe is scaled
    such that its pattern holds as many photons as the mean frame does in its good pixels.

    Parameters
    ----------
    dataset:
        What was measured.
    modes:
        Incoherent probe modes.
    margin:
        Object pixels around the outermost patches.
    memory_gb:
        Most memory for amplitudes, GB of 1e9 bytes; beyond it they are streamed. None: a tenth of what is free.
    slices, slice_distance_m:
        Of a thick object: how many, and the metres between two neighbours.
    near_field:
        How a near field propagates.

    Raises
    ------
    DatasetError
        When the dataset has faults.
    ReconstructionError
        When no frame can be used, the probe is not finite or empty, or slices are asked for without their distance or
        a geometry.
    """
    dataset.validate()
    size, name = dataset.frame_shape[0], dataset.name or "(unnamed)"
    if slices > 1 and (slice_distance_m is None or dataset.geometry is None or dataset.pixel_size_m is None):
        raise ReconstructionError(
            f"dataset {name}: {slices} slices need slice_distance_m (given {slice_distance_m}) and a geometry (given "
            f"{dataset.geometry}) with positions in metres (pixel_size_m is {dataset.pixel_size_m}), for waves travel "
            "from one to the next; give all, or reconstruct one slice"
        )
    propagator = propagator_for(dataset.geometry, dataset.modality, size, near_field)
    reciprocal = propagator.reciprocal
    grid = dataset.object_grid(margin)
    free = SHARE_OF_MEMORY * psutil.virtual_memory().available if memory_gb is None else memory_gb * 1e9
    found = survey(dataset, reciprocal, free)
    used, mean = found.used, found.mean
    if not used.any():
        raise ReconstructionError(
            f"dataset {name}: none of {len(dataset)} frames can be used; a frame must be finite, not negative and hold "
            "at least one count in its good pixels: check detector and mask"
        )
    if skipped := int((~used).sum()):
        logger.warning("dataset %s: %d of %d frames left out: not finite, negative or empty", name, skipped, len(used))
    corners = grid.corners[used]
    amplitudes: Amplitudes
    if found.amplitude is not None:
        amplitudes = MemoryAmplitudes(found.amplitude, corners)
    else:
        numbers = np.flatnonzero(used)
        amplitudes = StreamedAmplitudes(dataset.frames, numbers, dataset.mask, reciprocal, corners, found.total)
        logger.info("dataset %s: amplitudes are streamed, they would take %.3g GB", name, 4e-9 * len(used) * size**2)
    probe, counts = first_probe(dataset, mean, propagator, modes)
    start = Model(np.ones((slices, *grid.shape), np.complex64), probe[None], corners)
    sets = np.zeros(len(corners), np.int64)
    wavelength = None if dataset.geometry is None else dataset.geometry.wavelength_m
    distance = slice_distance_m if slices > 1 else None
    return Problem(amplitudes, sets, grid, used, propagator, start, counts, distance, wavelength)
