"""What a reconstruction says of the frames: the waves on the detector, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.stats

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.optics import NearField, fourier_shift, object_patches, propagator_for

__all__ = [
    "Patterns",
    "check_same_measurement",
    "compare_patterns",
    "detector_waves",
    "looked_at",
    "radial_sums",
    "ring_frequencies",
]

ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Patterns:
    """Measured against modelled frames: mean of all that were looked at."""

    frequency: FloatArray
    """(rings,) cycles per metre (per object pixel where no pixel size is known); no rings in the near field, whose
    detector shows places and not frequencies."""

    measured_rings: FloatArray
    """(rings,) mean counts of a good pixel."""

    modelled_rings: FloatArray
    """(rings,) the same of the model."""

    measured: FloatArray = field(repr=False)
    """(H, W) mean counts, NaN on bad pixels."""

    modelled: FloatArray = field(repr=False)
    """(H, W)."""

    r_factor: float
    """R-factor of the frames looked at."""

    r_noise: float
    """The R-factor that photon noise alone would leave if the model were the truth."""

    frames: int
    """How many were looked at."""


def check_same_measurement(result: Reconstruction, dataset: PtychoDataset) -> None:
    """Raise ReconstructionError where `result` cannot have been made from `dataset`."""
    if result.positions.shape != dataset.positions.shape or result.probe.shape[1:] != dataset.frame_shape:
        raise ReconstructionError(
            f"the result has {len(result.positions)} positions and a probe of {result.probe.shape[1:]} pixels, the "
            f"dataset {len(dataset)} frames of {dataset.frame_shape}; give the data that the result was made from, "
            "with the same crop"
        )


def looked_at(dataset: PtychoDataset, most: int) -> npt.NDArray[np.intp]:
    """Return the numbers of at most `most` frames, evenly spread over the scan."""
    return np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(np.intp))


def detector_waves(
    result: Reconstruction,
    dataset: PtychoDataset,
    positions: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float32] | None = None,
) -> ComplexArray:
    """Return (n, modes, H, W), the waves on the detector; far field: zero frequency in the corner ``[0, 0]``.

    Parameters
    ----------
    result:
        Object (any number of slices) and probe.
    dataset:
        For geometry and modality.
    positions:
        (n, 2) in the unit of ``result.positions``.
    weights:
        (n, rank) of the probe's variation; None for the mean probe.

    Raises
    ------
    ReconstructionError
        When a slice's distance is missing, or a patch leaves the object.
    """
    size = result.probe.shape[-1]
    corners = (positions - np.asarray(result.origin)) / (result.pixel_size_m or 1.0)
    whole = np.rint(corners).astype(np.intp)
    if (whole < 0).any() or (whole > np.array(result.object.shape[1:]) - size).any():
        raise ReconstructionError("positions leave the object; give those of the scan that the object was made from")
    probe = np.repeat(result.probe[None], len(whole), axis=0)
    if weights is not None and result.opr_modes is not None:
        probe[:, 0] += np.einsum("kr,rhw->khw", weights, result.opr_modes)
    fraction = (corners - whole)[:, None]
    waves = fourier_shift(probe, fraction) * object_patches(result.object[0], whole, (size, size))[:, None]
    if len(result.object) > 1:
        between = _between_slices(result, dataset, size)
        for later in result.object[1:]:
            waves = between.forward(waves) * object_patches(later, whole, (size, size))[:, None]
    propagator = propagator_for(dataset.geometry, dataset.modality, size)
    if not propagator.reciprocal:  # beam and detector stay where they are
        waves = fourier_shift(waves, -fraction)
    return np.asarray(propagator.forward(waves), np.complex64)


def _between_slices(result: Reconstruction, dataset: PtychoDataset, size: int) -> NearField:
    distance = result.parameters.get("slice_distance_m")
    if distance is None or dataset.geometry is None or result.pixel_size_m is None:
        raise ReconstructionError(
            f"the result has {len(result.object)} slices; to model its frames, its parameters need slice_distance_m "
            "and the dataset a geometry"
        )
    return NearField(size, result.pixel_size_m, dataset.geometry.wavelength_m, float(distance))


def radial_sums(image: npt.NDArray[np.floating], good: npt.NDArray[np.bool_]) -> FloatArray:
    """Return (size // 2,), sums over rings 1, 2... of an image (H, W), zero frequency in the centre."""
    size = image.shape[-1]
    y, x = (np.arange(n) - n // 2 for n in image.shape)
    ring = np.rint(np.hypot(y[:, None], x[None])).astype(np.int64)
    chosen = good & (ring <= size // 2)
    return np.asarray(np.bincount(ring[chosen], image[chosen], minlength=size // 2 + 1)[1:], np.float64)


def ring_frequencies(result: Reconstruction) -> FloatArray:
    """Return (size // 2,), the spatial frequency of each ring of a far-field frame."""
    size = result.probe.shape[-1]
    return np.asarray(np.arange(1, size // 2 + 1) / (size * (result.pixel_size_m or 1.0)), np.float64)


def _expected_error() -> tuple[FloatArray, FloatArray]:
    """Return the grid of a table: mean counts, and the mean of ``|sqrt(X) - sqrt(mean)|`` for Poisson counts X."""
    mean = np.concatenate([[0], np.geomspace(1e-4, 50, 120)])
    counts = np.arange(130)
    chance = scipy.stats.poisson.pmf(counts[None], mean[:, None])
    return mean, (chance * np.abs(np.sqrt(counts)[None] - np.sqrt(mean)[:, None])).sum(axis=1)


def compare_patterns(result: Reconstruction, dataset: PtychoDataset, most: int = 128) -> Patterns:
    """Compare measured frames, at most `most` of them, with those that the result explains.

    Raises
    ------
    ReconstructionError
        When the result was not made from this dataset, or none of the frames can be used.
    """
    check_same_measurement(result, dataset)
    good = np.ones(dataset.frame_shape, bool) if dataset.mask is None else ~dataset.mask
    usable = []
    sums = np.zeros((2, *dataset.frame_shape))
    roots, models = [], []
    for k in looked_at(dataset, most):
        frame = np.asarray(dataset.frames[slice(int(k), int(k) + 1)])[0].astype(np.float64)
        if not (np.isfinite(frame[good]).all() and (frame[good] >= 0).all()):
            continue
        weights = None if result.opr_weights is None else result.opr_weights[k : k + 1]
        waves = detector_waves(result, dataset, result.positions[k : k + 1], weights)[0]
        model = (np.abs(waves) ** 2).sum(axis=0, dtype=np.float64)
        model = scipy.fft.fftshift(model) if dataset.modality == "far-field" else model
        model = model if result.background is None else model + result.background
        sums += frame, model
        roots.append(np.sqrt(frame[good]))
        models.append(np.sqrt(model[good]))
        usable.append(k)
    if not usable:
        raise ReconstructionError("none of the frames looked at is finite and not negative; check detector and mask")
    measured, modelled = np.stack(roots), np.stack(models)
    scale = float((measured * modelled).sum() / (modelled**2).sum())
    table = _expected_error()
    mean = (scale * modelled) ** 2
    noise = np.where(mean < table[0][-1], np.interp(mean, *table), np.sqrt(1 / (2 * np.pi)))
    reciprocal = dataset.modality == "far-field"
    pixels = np.maximum(radial_sums(np.ones(good.shape), good), 1)
    sums[1] *= scale**2
    sums /= len(usable)
    return Patterns(
        frequency=ring_frequencies(result) if reciprocal else np.empty(0),
        measured_rings=radial_sums(sums[0], good) / pixels if reciprocal else np.empty(0),
        modelled_rings=radial_sums(sums[1], good) / pixels if reciprocal else np.empty(0),
        measured=np.where(good, sums[0], np.nan),
        modelled=sums[1],
        r_factor=float(np.abs(scale * modelled - measured).sum() / measured.sum()),
        r_noise=float(noise.sum() / measured.sum()),
        frames=len(usable),
    )
