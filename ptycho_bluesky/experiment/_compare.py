"""How good an image is: phase contrast, and agreement with another image after the free phase and ramp are gone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["align_phase", "phase_contrast", "phase_correlation"]

FloatImage = npt.NDArray[np.floating]


def phase_contrast(phase: FloatImage) -> float:
    """Return p99 - p1 of a phase image in radians; NaN pixels (not scanned) do not count."""
    inside = phase[np.isfinite(phase)]
    if inside.size == 0:
        return 0.0
    low, high = np.percentile(inside, [1, 99])
    return float(high - low)


def _shifted(image: npt.NDArray[np.float64], shift: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Shift an image by a Fourier ramp (periodic); positive moves towards larger indices."""
    fy, fx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])[None]
    ramp = np.exp(-2j * np.pi * (fy * shift[0] + fx * shift[1]))
    return np.asarray(np.fft.ifft2(np.fft.fft2(image) * ramp).real, dtype=np.float64)


def _without_ramp(phase: FloatImage, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Subtract the plane that fits the wrapped phase best inside the field; outside becomes 0."""
    y, x = np.indices(phase.shape) / max(phase.shape) - 0.5
    design = np.stack([np.ones(int(inside.sum())), y[inside], x[inside]], axis=1)
    values = np.where(inside, phase, 0.0).astype(np.float64)
    for _ in range(4):  # a fit to wrapped values converges in a few steps
        plane = np.linalg.lstsq(design, values[inside], rcond=None)[0]
        values = values - (plane[0] + plane[1] * y + plane[2] * x)
        values = np.angle(np.exp(1j * values))
    return np.asarray(np.where(inside, values, 0.0))


def align_phase(
    phase: FloatImage, reference: FloatImage, max_shift_px: float = 8.0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], tuple[float, float]]:
    """Bring `phase` over `reference`: remove offset and ramp of both, then a sub-pixel shift.

    Ptychography leaves a constant phase, a linear ramp and a common translation of object and probe undetermined;
    two results may be compared only when these are gone.

    Parameters
    ----------
    phase, reference:
        (Y, X) radians, NaN where not scanned; the same shape and pixel size.
    max_shift_px:
        Largest translation looked for, pixels.

    Returns
    -------
    phase, reference, shift:
        Both images (Y, X) float64, NaN outside the common field, and the shift (row, column) applied, in pixels.
    """
    inside = np.isfinite(phase) & np.isfinite(reference)
    if not inside.any():
        raise ValueError("the two images have no scanned pixel in common; compare images of the same field")
    a, b = _without_ramp(phase, inside), _without_ramp(reference, inside)
    a, b = (np.where(inside, v - v[inside].mean(), 0.0) for v in (a, b))
    cross = np.fft.fft2(b) * np.fft.fft2(a).conj()
    fy, fx = np.fft.fftfreq(a.shape[0])[:, None], np.fft.fftfreq(a.shape[1])[None]
    lag_y, lag_x = fy * a.shape[0], fx * a.shape[1]
    peak = np.where(
        (np.abs(lag_y) <= max_shift_px) & (np.abs(lag_x) <= max_shift_px), np.fft.ifft2(cross).real, -np.inf
    )
    row, column = np.unravel_index(int(peak.argmax()), peak.shape)
    best = (float(lag_y[row, 0]), float(lag_x[0, column]))
    for step in (0.25, 0.05):
        tried = [(best[0] + step * i, best[1] + step * j) for i in range(-4, 5) for j in range(-4, 5)]
        score = [float((cross * np.exp(2j * np.pi * (fy * s[0] + fx * s[1]))).real.sum()) for s in tried]
        best = tried[int(np.argmax(score))]
    a = _shifted(a, best)
    a, b = (np.where(inside, v, np.nan) for v in (a, b))
    return a, b, best


def phase_correlation(phase: FloatImage, reference: FloatImage, max_shift_px: float = 8.0) -> float:
    """Return Pearson's correlation of two phase images inside their common field, aligned by :func:`align_phase`."""
    a, b, _ = align_phase(phase, reference, max_shift_px)
    inside = np.isfinite(a)
    if a[inside].std() == 0 or b[inside].std() == 0:
        return 0.0
    return float(np.corrcoef(a[inside], b[inside])[0, 1])
