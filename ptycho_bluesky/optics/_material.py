"""From a map of the material to the wave that leaves it.

A specimen is a thickness map ``t`` from 0 (vacuum) to 1, seen as ``(1 - absorption)**t * exp(-1j * phase_rad * t)``:
X-rays run ahead in matter (refractive index below 1), and with waves ``exp(+1j k z)`` the phase falls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import DatasetError, report

__all__ = ["checked_shape", "cover", "power_law_field", "transmission"]

ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float64]


def transmission(thickness: npt.NDArray[np.floating], phase_rad: float, absorption: float) -> ComplexArray:
    """Return the complex64 transmission of a material map.

    Parameters
    ----------
    thickness:
        (Y, X), 0 = vacuum, 1 = full thickness.
    phase_rad:
        Phase by which full thickness advances the wave, radians.
    absorption:
        Share of the amplitude lost in full thickness, 0 to below 1.

    Raises
    ------
    DatasetError
        When `absorption` is out of these, or `phase_rad` not finite.
    """
    if not (0 <= absorption < 1 and np.isfinite(phase_rad)):
        raise DatasetError(
            f"specimen: absorption is {absorption}, phase_rad {phase_rad}; allowed: 0 to below 1; a finite number"
        )
    # By its parts: real exp, cos and sin are vectorised, a complex exp is four times slower.
    t = thickness.astype(np.float32, copy=False)
    amplitude, angle = np.exp(np.float32(np.log1p(-absorption)) * t), np.float32(-phase_rad) * t
    wave = np.empty(t.shape, np.complex64)
    wave.real, wave.imag = amplitude * np.cos(angle), amplitude * np.sin(angle)
    return wave


def checked_shape(title: str, shape: tuple[int, int], **positive: float) -> None:
    """Raise where a specimen's shape is too small, or a value that must be above 0 is not."""
    faults = [f"{name} is {value}; it must be above 0" for name, value in positive.items() if not value > 0]
    if len(shape) != 2 or min(shape) < 16:
        faults.append(f"shape is {shape}; allowed is (Y, X), each at least 16")
    if faults:
        raise DatasetError(report(title, faults))


def cover(inside_px: FloatArray) -> FloatArray:
    """Return the share of each pixel inside a border that is `inside_px` pixels away: anti-aliased edges."""
    return np.clip(inside_px + 0.5, 0.0, 1.0)


def power_law_field(
    shape: tuple[int, int], rng: np.random.Generator, exponent: float, longest_px: float
) -> npt.NDArray[np.float32]:
    """Return a (Y, X) float32 random field, mean 0 and deviation 1, with amplitudes ``q**-exponent``, q in 1/pixels.

    The spectrum is flat for structures longer than `longest_px`; `shape` is (Y, X), the phases come from `rng`.
    """
    fy, fx = scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.rfftfreq(shape[1])[None]
    amplitude = ((fy**2 + fx**2 + 1 / longest_px**2) ** (-exponent / 2)).astype(np.float32)
    spectrum = scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * amplitude
    spectrum[0, 0] = 0
    field = scipy.fft.irfft2(spectrum, s=shape)
    return np.asarray(field / max(float(field.std()), 1e-12), dtype=np.float32)
