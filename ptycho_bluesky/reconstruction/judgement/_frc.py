"""Fourier ring correlation: the length down to which two reconstructions agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Reconstruction, align_phase

__all__ = ["RingCorrelation", "first_lasting", "fourier_ring_correlation", "lasting_crossing"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RingCorrelation:
    """Correlation of two images, ring by ring in reciprocal space; lengths in metres, or pixels in pixel units."""

    frequency: FloatArray
    """(rings,) spatial frequency of each ring, cycles per metre (or per pixel)."""

    correlation: FloatArray
    """(rings,) from -1 to 1."""

    half_bit: FloatArray
    """(rings,) the half-bit threshold of each ring."""

    resolution: float
    """Half a period, ``1 / (2 frequency)``, where the correlation falls below the half-bit threshold and stays there
    for a twentieth of the rings (specimens with empty rings make short dips, and near fields are unsure of the lowest
    frequencies); the pixel size where it never does: the true value may be smaller."""

    resolution_one_seventh: float
    """The same for the fixed threshold 1/7."""

    box: tuple[int, int, int]
    """Row, column and side of the square that was compared, pixels."""


def _square(inside: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """Return (row, column, side) of the largest square in which every pixel is `inside`."""
    side = np.zeros(inside.shape[1] + 1, np.int64)
    best = (0, 0, 0)
    for i, row in enumerate(inside):  # the classic recursion: side of the largest square that ends at each pixel
        ended = np.zeros_like(side)
        for j in np.flatnonzero(row).tolist():
            ended[j + 1] = 1 + min(int(v) for v in (ended[j], side[j], side[j + 1]))
        side = ended
        j = int(side.argmax())
        if side[j] > best[2]:
            best = (i - int(side[j]) + 1, j - int(side[j]), int(side[j]))
    return best


def first_lasting(condition: npt.NDArray[np.bool_]) -> int | None:
    """Return the first ring from which on `condition` holds for a twentieth of the rings; None where nowhere."""
    length = max(3, len(condition) // 20)
    return next((k for k in range(len(condition)) if condition[k : k + length].all()), None)


def lasting_crossing(frequency: FloatArray, above: FloatArray) -> float | None:
    """Return the frequency where `above`, once it was above 0, falls below 0 to stay; None where it does not fall.

    To stay is to do so for a twentieth of the rings. The lowest rings may be below: they have few pixels, and near
    fields hold them weakly. A curve that is never above 0 to stay ends at its first ring.
    """
    begin = first_lasting(above >= 0)
    if begin is None:
        return float(frequency[0])
    beyond = first_lasting(above[begin:] < 0)
    if beyond is None:
        return None
    k = begin + beyond
    share = above[k - 1] / (above[k - 1] - above[k])
    return float(frequency[k - 1] + share * (frequency[k] - frequency[k - 1]))


def _resolution(frequency: FloatArray, above: FloatArray, pixel: float) -> float:
    crossing = lasting_crossing(frequency, above)
    return pixel if crossing is None else 1 / (2 * crossing)


def fourier_ring_correlation(
    first: Reconstruction, second: Reconstruction, max_shift_px: float = 16.0
) -> RingCorrelation:
    """Compare the phases of two reconstructions of the same field, from independent data for a resolution.

    Ramp and offset are removed, the images are aligned to a fraction of a pixel, the largest square inside both
    scanned fields is taken and weighted with a Hann window. Saxton and Baumeister, J. Microscopy 127, 127 (1982);
    half-bit threshold: van Heel and Schatz, J. Struct. Biol. 151, 250 (2005), eq. 17, with half the pixels of a ring
    as its independent ones, since the images are real.

    Parameters
    ----------
    first, second:
        Results on grids of the same pixel size; the common origin is found from their positions.
    max_shift_px:
        Largest remaining translation looked for, pixels.

    Raises
    ------
    ReconstructionError
        When pixel sizes differ, or the common field is smaller than 16 x 16 pixels.
    """
    pixel = first.pixel_size_m or 1.0
    other = second.pixel_size_m or 1.0
    if abs(pixel - other) > 1e-4 * pixel or (first.pixel_size_m is None) != (second.pixel_size_m is None):
        raise ReconstructionError(
            f"pixel sizes are {first.pixel_size_m} and {second.pixel_size_m}; a ring correlation needs equal ones: "
            "reconstruct both with the same frame size and geometry"
        )
    a, b = _on_common_grid(first, second, pixel)
    if not (np.isfinite(a) & np.isfinite(b)).any():
        raise ReconstructionError("the two reconstructions have no scanned pixel in common; compare the same field")
    a, b, _ = align_phase(a, b, max_shift_px)
    row, column, size = _square(np.isfinite(a) & np.isfinite(b))
    if size < 16:
        raise ReconstructionError(f"the common field holds a square of {size} pixels; at least 16 are needed")
    box = (slice(row, row + size), slice(column, column + size))
    window = np.hanning(size)[:, None] * np.hanning(size)[None]
    spectra = [np.fft.fft2((v[box] - np.average(v[box], weights=window)) * window) for v in (a, b)]
    lag = np.fft.fftfreq(size) * size
    ring = np.rint(np.hypot(lag[:, None], lag[None])).astype(np.int64)
    inner = ring <= size // 2

    def rings(values: npt.NDArray[np.floating]) -> FloatArray:
        return np.asarray(np.bincount(ring[inner], values[inner], minlength=size // 2 + 1)[1:])

    cross = rings((spectra[0] * spectra[1].conj()).real)
    power = np.sqrt(rings(np.abs(spectra[0]) ** 2) * rings(np.abs(spectra[1]) ** 2))
    root = np.sqrt(rings(np.ones_like(window)) / 2)
    correlation = cross / np.maximum(power, np.finfo(np.float64).tiny)
    half_bit = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    frequency = np.arange(1, size // 2 + 1) / (size * pixel)
    return RingCorrelation(
        frequency=frequency,
        correlation=correlation,
        half_bit=half_bit,
        resolution=_resolution(frequency, correlation - half_bit, pixel),
        resolution_one_seventh=_resolution(frequency, correlation - 1 / 7, pixel),
        box=(row, column, size),
    )


def _on_common_grid(first: Reconstruction, second: Reconstruction, pixel: float) -> tuple[FloatArray, FloatArray]:
    """Return both phases, cut to the pixels that both grids hold (to the whole pixel; the rest is aligned later)."""
    offset = np.rint((np.array(second.origin) - np.array(first.origin)) / pixel).astype(int)
    images = [np.asarray(v.phase, np.float64) for v in (first, second)]
    start = np.maximum(offset, 0)
    shape = np.minimum(images[0].shape - start, images[1].shape - np.maximum(-offset, 0))
    if (shape < 1).any():
        raise ReconstructionError("the two reconstructions have no scanned pixel in common; compare the same field")
    cut = []
    for image, corner in ((images[0], start), (images[1], np.maximum(-offset, 0))):
        cut.append(image[corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]])
    return cut[0], cut[1]
