"""Phase retrieval transfer function: up to which spatial frequency the phases come out the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction.judgement._alignment import aligned
from ptycho_bluesky.reconstruction.judgement._frc import lasting_crossing
from ptycho_bluesky.reconstruction.judgement._prediction import (
    ComplexArray,
    check_same_measurement,
    detector_waves,
    looked_at,
    radial_sums,
    ring_frequencies,
)

__all__ = ["TransferFunction", "phase_retrieval_transfer"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TransferFunction:
    """How well independent reconstructions agree on the phases of the measured amplitudes, ring by ring."""

    frequency: FloatArray
    """(rings,) spatial frequency, cycles per metre (per object pixel where no pixel size is known)."""

    transfer: FloatArray
    """(rings,) from 1 where all agree to 0 where phases are random, or where there is no count."""

    cutoff: float | None
    """Frequency from which on it stays below 1/e; None where it does so nowhere on the detector."""

    @property
    def resolution(self) -> float | None:
        """Half a period at the cutoff, metres or object pixels."""
        return None if self.cutoff is None else 1 / (2 * self.cutoff)


def phase_retrieval_transfer(
    result: Reconstruction, dataset: PtychoDataset, members: Sequence[Reconstruction], frames: int = 64
) -> TransferFunction:
    """Return the share of the measured amplitude on whose phase independent reconstructions agree, ring by ring.

    Chapman et al., J. Opt. Soc. Am. A 23, 1179 (2006): the complex amplitudes of several reconstructions are averaged;
    where their phases agree the average keeps the measured modulus, where they do not it vanishes. In ptychography
    the amplitudes are those of the exit waves ``P * O_patch``, whose phases hold what object and probe share, brought
    to the measured modulus. Before, each member is freed of the common shift, and of its free phases and mixture of
    modes (the unitary matrix that brings its modes nearest to those of `result`: Schönemann, Psychometrika 31, 1
    (1966)). ``transfer**2`` is the mean of ``Re(psi_m * conj(psi_n))`` over all pairs of *different* members, summed
    over the pixels of a ring, all modes and frames, over the counts there: the squared modulus of the average without
    the part that random phases leave in it, so that a few members suffice.

    Members that differ by their data (half data sets, bootstraps) tell what noise leaves of the phases; members that
    differ by their seed alone tell how reproducible the engine is, and in ptychography stay near 1 far into the noise.

    Parameters
    ----------
    result, dataset:
        What is judged, and its far-field data.
    members:
        At least 2, e.g. ``Uncertainty.members``.
    frames:
        How many to look at, evenly spread over the scan.

    Raises
    ------
    ReconstructionError
        When there are too few members, the field is near, or the result was not made from this dataset.
    """
    if len(members) < 2 or dataset.modality != "far-field":
        raise ReconstructionError(
            f"{len(members)} members, {dataset.modality}: a phase retrieval transfer function needs at least 2 "
            "reconstructions, and the far field, whose detector shows spatial frequencies"
        )
    check_same_measurement(result, dataset)
    chosen = looked_at(dataset, frames)
    shifts = [aligned(member, result).shift for member in members]
    turns = _turns(result, dataset, members, shifts, chosen)
    good = np.ones(dataset.frame_shape, bool) if dataset.mask is None else ~dataset.mask
    still = result.background  # counts that are no diffraction have no phase
    agreed, measured, count = np.zeros(dataset.frame_shape), np.zeros(dataset.frame_shape), len(members)
    for k in chosen:
        frame = np.asarray(dataset.frames[slice(int(k), int(k) + 1)])[0].astype(np.float64)
        if not (np.isfinite(frame[good]).all() and (frame[good] >= 0).all()):
            continue
        counts = np.where(good, np.maximum(frame if still is None else frame - still, 0), 0)
        modulus, total = scipy.fft.ifftshift(np.sqrt(counts)), np.zeros(result.probe.shape, np.complex128)
        for member, shift, turn in zip(members, shifts, turns, strict=True):
            waves = np.einsum("mn,nhw->mhw", turn, _waves(member, dataset, result, k, shift))
            total += waves * (modulus / np.maximum(np.sqrt((np.abs(waves) ** 2).sum(axis=0)), 1e-12))
        both = scipy.fft.fftshift((np.abs(total) ** 2).sum(axis=0))
        agreed += (both - count * counts) / (count * (count - 1))
        measured += counts
    power = radial_sums(measured, good)
    transfer = np.sqrt(np.maximum(radial_sums(agreed, good), 0) / np.maximum(power, 1))
    frequency = ring_frequencies(result)
    return TransferFunction(frequency, transfer, lasting_crossing(frequency, transfer - np.exp(-1)))


def _waves(
    member: Reconstruction, dataset: PtychoDataset, result: Reconstruction, k: int, shift: FloatArray
) -> ComplexArray:
    """Return (modes, H, W), a member's waves of frame k, at the place of the result's."""
    own = member.opr_weights is not None and len(member.opr_weights) == len(dataset)
    weights = member.opr_weights[k : k + 1] if own and member.opr_weights is not None else None
    rows, columns = (scipy.fft.fftfreq(n) * s for n, s in zip(dataset.frame_shape, shift, strict=True))
    ramp = np.exp(-2j * np.pi * (rows[:, None] + columns[None])).astype(np.complex64)
    return np.asarray(detector_waves(member, dataset, result.positions[k : k + 1], weights)[0] * ramp)


def _turns(
    result: Reconstruction,
    dataset: PtychoDataset,
    members: Sequence[Reconstruction],
    shifts: Sequence[FloatArray],
    chosen: npt.NDArray[np.intp],
) -> list[npt.NDArray[np.complex128]]:
    """Return (modes, modes) for each member: the unitary mixture that brings its waves nearest to the result's."""
    modes = len(result.probe)
    if any(len(member.probe) != modes for member in members):
        raise ReconstructionError(f"the result has {modes} probe modes and its members have not; make them alike")
    cross = np.zeros((len(members), modes, modes), np.complex128)
    still = np.zeros(2)
    for k in chosen[:: max(1, len(chosen) // 16)]:
        wanted = _waves(result, dataset, result, k, still).reshape(modes, -1)
        for total, member, shift in zip(cross, members, shifts, strict=True):
            total += wanted @ _waves(member, dataset, result, k, shift).reshape(modes, -1).conj().T
    turns = []
    for total in cross:
        left, _, right = np.linalg.svd(total)
        turns.append(left @ right)
    return turns
