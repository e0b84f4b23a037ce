"""All that can be said of a result, and what it means in plain words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction.judgement._frc import RingCorrelation, first_lasting, fourier_ring_correlation
from ptycho_bluesky.reconstruction.judgement._halves import HalfDataResult, as_reconstructed
from ptycho_bluesky.reconstruction.judgement._prediction import Patterns, compare_patterns
from ptycho_bluesky.reconstruction.judgement._prtf import TransferFunction, phase_retrieval_transfer
from ptycho_bluesky.reconstruction.judgement._uncertainty import Uncertainty

__all__ = ["Finding", "Judgement", "judge", "length_text"]

FEW_RINGS = 2
"""The lowest rings have a dozen pixels and fewer: their correlation is a matter of chance, and of the window."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    good: bool
    """False where someone should look."""

    text: str
    """In plain words, with the number."""


@dataclass(frozen=True)
class Judgement:
    """A result with everything that speaks for and against it."""

    result: Reconstruction = field(repr=False)
    findings: tuple[Finding, ...]
    patterns: Patterns | None = field(default=None, repr=False)
    correlation: RingCorrelation | None = field(default=None, repr=False)
    between_halves: bool = False
    """True where the correlation is one of half data sets, False where it is one of two results."""

    uncertainty: Uncertainty | None = field(default=None, repr=False)
    transfer: TransferFunction | None = field(default=None, repr=False)
    moved: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    """(N, 2) object pixels by which positions were refined; None where the given ones are not known."""

    photons: float | None = None
    """Mean counts of the frames that were looked at."""

    @property
    def phase_std(self) -> npt.NDArray[np.float32] | None:
        """(Y, X) one standard deviation of the phase, radians; None where not estimated."""
        return self.result.uncertainty if self.uncertainty is None else self.uncertainty.phase_std

    @property
    def good(self) -> bool:
        """True where nothing asks to be looked at."""
        return all(finding.good for finding in self.findings)

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        if self.good and self.patterns is not None and self.correlation is not None:
            return "Good"
        if self.good:
            lacking = "half data sets" if self.patterns is not None else "its data and half data sets"
            return f"No fault seen; {lacking} would say more"
        count = sum(not finding.good for finding in self.findings)
        return f"Look at this: {count} point{'s' if count > 1 else ''}"

    def numbers(self) -> dict[str, Any]:
        """Return the figures by name, SI units in the names; what is not known is left out."""
        result, unit = self.result, "px" if self.result.pixel_size_m is None else "m"
        values: dict[str, Any] = {
            "r_factor": _r_factor(result, self.patterns),
            "r_noise": self.patterns and self.patterns.r_noise,
            "phase_contrast_rad": result.phase_contrast_rad,
            f"resolution_half_bit_{unit}": self.correlation and self.correlation.resolution,
            f"resolution_one_seventh_{unit}": self.correlation and self.correlation.resolution_one_seventh,
            f"prtf_resolution_{unit}": self.transfer and self.transfer.resolution,
            "phase_uncertainty_rad": None if self.phase_std is None else float(np.nanmedian(self.phase_std)),
            "position_shift_rms_px": None if self.moved is None else _rms(self.moved),
            "pixel_size_m": result.pixel_size_m,
            "photons_per_frame": self.photons,
            "mode_powers": [round(float(share), 4) for share in mode_powers(result)],
            "frames": len(result.positions),
            "epochs": len(result.errors),
        }
        return {name: value for name, value in values.items() if value is not None}


def mode_powers(result: Reconstruction) -> npt.NDArray[np.float64]:
    """Return (modes,), each mode's share of the probe's power."""
    power = (np.abs(result.probe.astype(np.complex128)) ** 2).sum(axis=(1, 2))
    return np.asarray(power / power.sum())


def length_text(length: float, pixel_size_m: float | None) -> str:
    """Return a length, metres or object pixels, with three digits and a unit."""
    if pixel_size_m is None:
        return f"{length:.3g} px"
    return f"{length * 1e9:.3g} nm" if length < 0.9995e-6 else f"{length * 1e6:.3g} µm"


def judge(
    result: Reconstruction,
    dataset: PtychoDataset | None = None,
    frc: RingCorrelation | HalfDataResult | None = None,
    uncertainty: Uncertainty | None = None,
) -> Judgement:
    """Bring together what is known of a result, and say in plain words whether it is good.

    No number is enough by itself: a low R-factor with little contrast is an image that froze too early, two halves that
    agree on an image which does not explain the data share a fault.

    Parameters
    ----------
    result:
        What is judged.
    dataset:
        What it was made from; without it the R-factor cannot be compared with the photon noise.
    frc:
        Half data sets for a resolution, or a correlation with another result; None: the halves of an uncertainty that
        was made from such.
    uncertainty:
        Of this result; None: the map that the result carries, if any. With `dataset` (far field) its members give the
        phase retrieval transfer function.

    Raises
    ------
    ReconstructionError
        When the result was not made from this dataset.
    """
    dataset = None if dataset is None else as_reconstructed(dataset, result)
    patterns = None if dataset is None else compare_patterns(result, dataset)
    if frc is None and uncertainty is not None and uncertainty.kind == "half-data":
        first, second = uncertainty.members[:2]
        frc = HalfDataResult(first, second, fourier_ring_correlation(first, second))
    halves = isinstance(frc, HalfDataResult)
    correlation = frc.correlation if isinstance(frc, HalfDataResult) else frc
    transfer = None
    if dataset is not None and uncertainty is not None and dataset.modality == "far-field":
        transfer = phase_retrieval_transfer(result, dataset, uncertainty.members)
    moved = None
    if dataset is not None:
        moved = (result.positions - dataset.positions) / (result.pixel_size_m or 1.0)
        moved = moved - moved.mean(axis=0)
    findings = [
        _of_r_factor(result, patterns),
        *_of_errors(result.errors),
        *_of_correlation(result, correlation, patterns, halves),
        _of_contrast(result, result.uncertainty if uncertainty is None else uncertainty.phase_std),
        *_of_modes(result),
        *_of_positions(moved),
    ]
    photons = None if patterns is None else float(np.nansum(patterns.measured))
    return Judgement(result, tuple(findings), patterns, correlation, halves, uncertainty, transfer, moved, photons)


def _rms(vectors: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt((vectors**2).sum(axis=1).mean()))


def _r_factor(result: Reconstruction, patterns: Patterns | None) -> float | None:
    """Return the R-factor; that of the frames looked at where another program did not tell it."""
    if np.isfinite(result.r_factor):
        return result.r_factor
    return None if patterns is None else patterns.r_factor


def _explains(result: Reconstruction, patterns: Patterns | None) -> bool:
    """Tell whether the model explains the data as far as it can be expected of measured data."""
    if patterns is None:
        return not result.r_factor >= 0.3
    return patterns.r_factor < max(0.1, 3 * patterns.r_noise)


def _of_r_factor(result: Reconstruction, patterns: Patterns | None) -> Finding:
    good, r_factor = _explains(result, patterns), _r_factor(result, patterns)
    if r_factor is None:
        return Finding(True, "The R-factor is not known; give the data to have it computed.")
    if patterns is None:
        tail = "give the data to compare it with the photon noise" if good else "the model does not explain the data"
        return Finding(good, f"R-factor {r_factor:.3f}; {tail}.")
    ratio = patterns.r_factor / max(patterns.r_noise, 1e-9)
    text = f"R-factor {r_factor:.3f}, where photon noise alone leaves {patterns.r_noise:.3f}"
    if ratio < 1.2:
        return Finding(good, f"{text}: the data are explained down to the noise.")
    if good:
        return Finding(True, f"{text}: {ratio:.1f} times the noise, as is usual for measured data.")
    return Finding(
        False,
        f"{text}: {ratio:.1f} times the noise; something is not in the model: positions (unit, order, signs), "
        "orientation, energy or distance, further probe modes, background.",
    )


def _of_errors(errors: npt.NDArray[np.float64]) -> list[Finding]:
    if len(errors) < 10 or not (errors > 0).all():  # another program's loss may be of any sign
        return []
    last = errors[-max(3, len(errors) // 10) :]
    fall = 1 - last[-1] / last[0]
    if errors[-1] > 1.1 * errors.min():
        return [
            Finding(False, f"The error ends at {errors[-1]:.3f}, above its best of {errors.min():.3f}: it diverges.")
        ]
    if fall > 0.03:
        return [Finding(False, f"The error still falls, by {fall:.0%} in the last {len(last)} epochs: give it more.")]
    return [Finding(True, f"The error has settled: {max(fall, 0):.1%} less in the last {len(last)} epochs.")]


def _of_correlation(
    result: Reconstruction, correlation: RingCorrelation | None, patterns: Patterns | None, halves: bool
) -> list[Finding]:
    if correlation is None:
        return []
    pixels = correlation.resolution / (result.pixel_size_m or 1.0)
    length = length_text(correlation.resolution, result.pixel_size_m)
    text = f"{'Half data sets' if halves else 'The two results'} agree down to {length}"
    if result.pixel_size_m is not None:
        text += f" ({pixels:.1f} pixels)"
    if pixels > 4:
        return [Finding(False, f"{text}: far above the pixel; more dose or overlap, or a fault in what was measured.")]
    if not _explains(result, patterns):
        return [Finding(False, f"{text}, yet their image does not explain the data: the fault is common to both.")]
    begin = first_lasting(correlation.correlation >= correlation.half_bit)
    if begin is not None and begin > FEW_RINGS:
        period = length_text(1 / float(correlation.frequency[begin]), result.pixel_size_m)
        text += (
            f", but not on what is wider than {period}: do not trust smooth gradients, which near fields hold weakly"
        )
        return [Finding(False, f"{text}.")]
    return [Finding(True, f"{text}.")]


def _of_contrast(result: Reconstruction, phase_std: npt.NDArray[np.float32] | None) -> Finding:
    contrast, text = result.phase_contrast_rad, f"Phase contrast {result.phase_contrast_rad:.2f} rad"
    if phase_std is not None:
        sigma = max(float(np.nanmedian(phase_std)), 1e-9)
        text += f", {contrast / sigma:.0f} times its uncertainty of {sigma:.2g} rad"
        if contrast < 10 * sigma:
            return Finding(False, f"{text}: hardly more than noise.")
    if contrast < 0.05:
        return Finding(False, f"{text}: an empty field, or an image that froze too early.")
    if contrast > 5.5:
        return Finding(False, f"{text}: the phase wraps, or noise covers the field; look at the image.")
    return Finding(True, f"{text}.")


def _of_modes(result: Reconstruction) -> list[Finding]:
    powers = mode_powers(result)
    if len(powers) == 1 or powers[0] >= 0.5:
        return []
    return [
        Finding(
            False,
            f"The strongest of {len(powers)} probe modes holds {powers[0]:.0%} of the power: a beam of little "
            "coherence, a shaking sample, or modes that make up for another fault.",
        )
    ]


def _of_positions(moved: npt.NDArray[np.float64] | None) -> list[Finding]:
    if moved is None or (rms := _rms(moved)) < 1e-3:
        return []
    if rms > 5:
        return [Finding(False, f"Positions were moved by {rms:.1f} pixels rms: check unit, axes and encoders.")]
    return [Finding(True, f"Positions were refined by {rms:.2g} pixels rms.")]
