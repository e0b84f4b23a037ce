"""From a dataset to what the kernels work on: amplitudes, corners, a start for object and probe."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import ObjectGrid, PtychoDataset
from ptycho_bluesky.optics import NearField, Propagator, fourier_shift, propagator_for

__all__ = ["BAD_PIXEL", "Model", "Problem", "Subpixel", "orthogonal_modes", "prepare", "with_modes"]

logger = logging.getLogger(__name__)

ComplexArray = npt.NDArray[np.complex64]

BAD_PIXEL = -1.0
"""Amplitude that tells the kernels to keep the model's value."""


@dataclass(frozen=True)
class Model:
    """What is reconstructed, at one moment."""

    object: ComplexArray
    """(Y, X)."""

    probe: ComplexArray
    """(modes, H, W); ``sum |probe|**2`` is on the scale of the counts."""

    def is_finite(self) -> bool:
        """Tell whether every number is finite."""
        return bool(np.isfinite(self.object).all() and np.isfinite(self.probe).all())


@dataclass(frozen=True)
class Subpixel:
    """Frames grouped by the fraction of their corner, rounded to ``1 / divisions`` of a pixel.

    Each group has its own copy of the probe, moved by that fraction, during an epoch; afterwards the copies are moved
    back and averaged. With 1 division, corners are rounded to whole pixels: the largest error is half a pixel.
    """

    corners: npt.NDArray[np.int64]
    """(N, 2) whole pixels."""

    classes: npt.NDArray[np.int64]
    """(N,) the group of each frame."""

    fractions: npt.NDArray[np.float64]
    """(groups, 2) pixels, within -0.5 ... 0.5."""

    @classmethod
    def of(cls, corners: npt.NDArray[np.float64], divisions: int) -> Subpixel:
        """Group (N, 2) corners, in pixels."""
        rounded = np.rint(corners * divisions).astype(np.int64)
        whole = np.rint(rounded / divisions).astype(np.int64)
        rest, classes = np.unique(rounded - whole * divisions, axis=0, return_inverse=True)
        return cls(whole, classes.ravel().astype(np.int64), rest / divisions)

    def spread(self, probe: ComplexArray) -> ComplexArray:
        """Return (groups, M, H, W), the probe moved by each fraction."""
        if not self.fractions.any():
            return np.repeat(probe[None], len(self.fractions), axis=0)
        return fourier_shift(np.ascontiguousarray(probe[None]), self.fractions[:, None])

    def gather(self, copies: ComplexArray, visits: npt.NDArray[np.integer]) -> ComplexArray:
        """Return (M, H, W): copies (workers, groups, M, H, W) moved back and averaged, weighted by `visits`."""
        shares = (visits / visits.sum()).astype(np.float32)
        probes = np.einsum("tc,tcmij->cmij", shares, copies)
        moved = fourier_shift(probes, -self.fractions[:, None]) if self.fractions.any() else probes
        return np.asarray(moved.sum(axis=0), dtype=np.complex64)


@dataclass(frozen=True)
class Problem:
    """Everything that stays fixed during a reconstruction."""

    amplitude: npt.NDArray[np.float32]
    """(N, H, W) square roots of the counts, zero frequency at the corner; negative = bad pixel."""

    corners: npt.NDArray[np.float64]
    """(N, 2) object pixels, with fractions."""

    grid: ObjectGrid
    """Of all frames of the dataset, used or not."""

    used: npt.NDArray[np.bool_]
    """(frames of the dataset,) True where the frame is among the N used ones."""

    propagator: Propagator
    start: Model
    mean_counts: float
    """Mean counts of a frame, over good pixels."""

    @property
    def transfer(self) -> ComplexArray:
        """(H, W) transfer function of the near field, (0, 0) in the far field."""
        if isinstance(self.propagator, NearField):
            return self.propagator.transfer
        return np.empty((0, 0), np.complex64)

    @property
    def total(self) -> float:
        """Sum of all good amplitudes."""
        return float(np.maximum(self.amplitude, 0).sum(dtype=np.float64))


def with_modes(probe: ComplexArray, modes: int, share: float = 0.1) -> ComplexArray:
    """Return `modes` modes: those of `probe` (M, H, W), and where more are asked for, relatives of the first.

    A partially coherent beam is a beam convolved over small angles, a vibrating one over small shifts; their further
    modes look like the first one times low polynomials, in the sample's plane or in the pupil's. Each new mode is a
    random mixture of those up to second order, such that it has a part of whatever direction the true one takes, with
    `share` of the first one's power. All are orthogonal.
    """
    if modes <= len(probe):
        return np.ascontiguousarray(probe[:modes])
    rng, size = np.random.default_rng(0), probe.shape[-1]
    y, x = (np.indices((size, size)) - size // 2) / size
    spectrum = scipy.fft.fftshift(scipy.fft.fft2(probe[0]))
    terms = []
    for i, j in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2)):
        polynomial = y**i * x**j
        terms += [probe[0] * polynomial, scipy.fft.ifft2(scipy.fft.ifftshift(spectrum * polynomial))]
    flat = np.stack(terms).reshape(len(terms), -1)
    flat /= np.maximum(np.linalg.norm(flat, axis=1), np.finfo(np.float32).tiny)[:, None]
    count = modes - len(probe)
    mixing = rng.normal(size=(count, len(terms))) + 1j * rng.normal(size=(count, len(terms)))
    new = mixing @ flat
    new *= np.sqrt(share) * np.linalg.norm(probe[0]) / np.linalg.norm(new, axis=1)[:, None]
    new = new.reshape(count, size, size).astype(np.complex64)
    return orthogonal_modes(np.concatenate([probe, new]))


def orthogonal_modes(probe: ComplexArray) -> ComplexArray:
    """Return the same incoherent sum as orthogonal modes, strongest first (Thibault and Menzel, Nature 494, 68)."""
    if len(probe) == 1:
        return probe
    flat = probe.reshape(len(probe), -1)
    _, vectors = np.linalg.eigh(flat.astype(np.complex128) @ flat.conj().T)
    return np.asarray((vectors[:, ::-1].conj().T @ flat).reshape(probe.shape), dtype=np.complex64)


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


def prepare(dataset: PtychoDataset, modes: int, margin: int = 16) -> Problem:
    """Check a dataset and bring it into the kernels' form.

    Frames that are not finite, negative or empty are left out, with a warning that counts them. The probe is scaled
    such that its pattern holds as many photons as the mean frame does in its good pixels.

    Raises
    ------
    DatasetError
        When the dataset has faults.
    ReconstructionError
        When no frame can be used, or the probe is not finite or empty.
    """
    dataset.validate()
    used, size = dataset.finite_frames(), dataset.frame_shape[0]
    name = dataset.name or "(unnamed)"
    if not used.any():
        raise ReconstructionError(
            f"dataset {name}: none of {len(dataset)} frames can be used; a frame must be finite, not negative and hold "
            "at least one count in its good pixels: check detector and mask"
        )
    if skipped := int((~used).sum()):
        logger.warning("dataset %s: %d of %d frames left out: not finite, negative or empty", name, skipped, len(used))
    mask = np.zeros((size, size), bool) if dataset.mask is None else dataset.mask
    propagator = propagator_for(dataset.geometry, dataset.modality, size)
    reciprocal = propagator.reciprocal
    amplitude, mean, place = np.empty((int(used.sum()), size, size), np.float32), np.zeros((size, size)), 0
    for chosen, frames in dataset.batches():
        good = np.where(mask, 0, frames[used[chosen]])
        mean += good.sum(axis=0, dtype=np.float64)
        part = np.where(mask, np.float32(BAD_PIXEL), np.sqrt(good, dtype=np.float32))
        amplitude[place : place + len(part)] = scipy.fft.ifftshift(part, axes=(1, 2)) if reciprocal else part
        place += len(part)
    mean /= len(amplitude)
    if reciprocal:
        mean, mask = scipy.fft.ifftshift(mean), scipy.fft.ifftshift(mask)
    probe = _guess(mean, mask, propagator) if dataset.probe is None else dataset.probe.astype(np.complex64)
    power = _power(probe, mask, propagator)
    if not (np.isfinite(power) and power > 0):
        raise ReconstructionError(
            f"dataset {name}: the probe's intensity on the good pixels sums to {power}; it must be finite and above 0: "
            "mend the probe, or leave it out to have it guessed from the mean frame"
        )
    factor = float(np.sqrt(mean.sum() / power))
    if abs(factor - 1) > 0.01:
        logger.info("dataset %s: probe scaled by %.4g to the %.4g counts of a mean frame", name, factor, mean.sum())
    probe = with_modes(np.asarray(probe * factor, np.complex64), modes)
    probe *= np.float32(np.sqrt(mean.sum() / _power(probe, mask, propagator)))
    grid = dataset.object_grid(margin)
    start = Model(np.ones(grid.shape, np.complex64), probe)
    return Problem(amplitude, grid.corners[used], grid, used, propagator, start, float(mean.sum()))
