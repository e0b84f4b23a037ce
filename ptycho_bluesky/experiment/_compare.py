"""How good an image is: phase contrast, and agreement with another image after the free phase and ramp are gone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["align_phase", "phase_contrast", "phase_correlation"]

FloatImage = npt.NDArray[np.floating]


def phase_contrast(phase: FloatImage) -> float:
    """Return p99 - p1 of a phase image (Y, X) in radians; NaN pixels (not scanned) do not count."""
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


def _plane(phase: FloatImage, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the plane (Y, X) that fits a wrapped phase best inside the field.

    The slopes come from the products of neighbours, which do not mind where the phase wraps (Itoh, Applied Optics 21,
    2470 (1982)); a least-squares fit to what is left, now hardly wrapped, makes them exact.
    """
    values = np.where(inside, phase, 0.0).astype(np.float64)
    wave = np.where(inside, np.exp(1j * values), 0.0)
    slope_y = np.angle((wave[1:] * wave[:-1].conj()).sum())
    slope_x = np.angle((wave[:, 1:] * wave[:, :-1].conj()).sum())
    y, x = np.meshgrid(*(np.arange(n) for n in phase.shape), indexing="ij")
    plane = slope_y * y + slope_x * x
    plane += np.angle((wave * np.exp(-1j * plane)).sum())
    design = np.stack([np.ones(int(inside.sum())), y[inside] / y.size, x[inside] / x.size], axis=1)
    for _ in range(3):
        rest = np.angle(np.exp(1j * (values[inside] - plane[inside])))
        fit = np.linalg.lstsq(design, rest, rcond=None)[0]
        plane = plane + fit[0] + fit[1] * y / y.size + fit[2] * x / x.size
    return np.asarray(plane, dtype=np.float64)


def _best_shift(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], most: float) -> tuple[float, float]:
    """Return the shift of `a`, to 0.05 pixels and at most `most`, that correlates best with `b`."""
    cross = np.fft.fft2(b) * np.fft.fft2(a).conj()
    fy, fx = np.fft.fftfreq(a.shape[0]), np.fft.fftfreq(a.shape[1])
    lag_y, lag_x = fy * a.shape[0], fx * a.shape[1]
    near = (np.abs(lag_y) <= most)[:, None] & (np.abs(lag_x) <= most)[None]
    row, column = np.unravel_index(int(np.where(near, np.fft.ifft2(cross).real, -np.inf).argmax()), a.shape)
    best = (float(lag_y[row]), float(lag_x[column]))
    for step in (0.25, 0.05):
        rows, columns = (np.clip(v + step * np.arange(-4, 5), -most, most) for v in best)
        score = np.exp(2j * np.pi * np.outer(rows, fy)) @ cross @ np.exp(2j * np.pi * np.outer(fx, columns))
        row, column = np.unravel_index(int(score.real.argmax()), score.shape)
        best = (float(rows[row]), float(columns[column]))
    return best


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

    Raises
    ------
    ValueError
        When the shapes differ, or no scanned pixel is common to both.
    """
    if phase.shape != reference.shape:
        raise ValueError(f"the images have shapes {phase.shape} and {reference.shape}; cut both to the same field")
    seen, inside = np.isfinite(phase), np.isfinite(phase) & np.isfinite(reference)
    if not inside.any():
        raise ValueError("the two images have no scanned pixel in common; compare images of the same field")
    # Outside the field both are flat: an edge of the field must not be what the shift locks on.
    a, b = (np.where(inside, np.angle(np.exp(1j * (v - _plane(v, inside)))), 0.0) for v in (phase, reference))
    a, b = (np.where(inside, v - v[inside].mean(), 0.0) for v in (a, b))
    shift = _best_shift(a, b, max_shift_px)
    a = np.where(seen, np.angle(np.exp(1j * (phase - _plane(phase, inside)))), 0.0)
    a = _shifted(a, shift)
    common = inside & _moved(seen, shift)
    if not common.any():
        raise ValueError(f"no scanned pixel is left in common after a shift of {shift} pixels; lower max_shift_px")
    a = a - _plane(a - b, common)
    a, b = (np.where(common, v, np.nan) for v in (a, b))
    return a, b, shift


def _moved(inside: npt.NDArray[np.bool_], shift: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Return where a shifted image still comes from inside its field."""
    moved = inside
    for axis, pixels in enumerate(shift):
        for whole in {int(np.floor(pixels)), int(np.ceil(pixels))}:
            rolled = np.roll(inside, whole, axis=axis)
            wrapped = [slice(None), slice(None)]
            wrapped[axis] = slice(0, whole) if whole >= 0 else slice(whole, None)
            if whole:
                rolled[tuple(wrapped)] = False
            moved = moved & rolled
    return moved


def phase_correlation(phase: FloatImage, reference: FloatImage, max_shift_px: float = 8.0) -> float:
    """Return Pearson's correlation of two phase images inside their common field; 0 where one of them is flat.

    They are aligned first; parameters and errors are those of :func:`align_phase`.
    """
    a, b, _ = align_phase(phase, reference, max_shift_px)
    inside = np.isfinite(a)
    if a[inside].std() == 0 or b[inside].std() == 0:
        return 0.0
    return float(np.corrcoef(a[inside], b[inside])[0, 1])
