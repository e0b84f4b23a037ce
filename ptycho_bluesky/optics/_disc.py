"""A disc for a probe; a diffuser before, and the diameter of, any probe."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.optics._material import power_law_field
from ptycho_bluesky.optics._probes import normalised, positive

__all__ = ["diffused", "disc_probe", "probe_diameter_m"]

ComplexArray = npt.NDArray[np.complex64]


def disc_probe(
    frame_size: int,
    pixel_size_m: float,
    *,
    diameter_m: float,
    edge_m: float | None = None,
    wavelength_m: float | None = None,
    defocus_m: float = 0.0,
) -> ComplexArray:
    """Return a disc with a soft edge and a flat phase: a pinhole, or a first guess where the optics are unknown.

    Parameters
    ----------
    frame_size:
        Pixels along a side.
    pixel_size_m:
        Object pixel, metres; 1 to give all lengths in pixels.
    diameter_m:
        Where the amplitude has fallen to one half; may be no larger than the frame.
    edge_m:
        Width of the cosine edge; None for a tenth of the diameter.
    wavelength_m, defocus_m:
        Distance from the pinhole to the sample, which needs the wavelength; metres.

    Returns
    -------
    numpy.ndarray
        (H, W) complex64, its centre at ``[H // 2, W // 2]``, ``sum |P|**2 = 1``.

    Raises
    ------
    DatasetError
        When a length is out of range.
    """
    title = "disc probe"
    edge_m = diameter_m / 10 if edge_m is None else edge_m
    positive(title, pixel_size_m=pixel_size_m, diameter_m=diameter_m)
    faults = []
    if diameter_m > frame_size * pixel_size_m:
        faults.append(f"diameter_m is {diameter_m}; the frame is {frame_size * pixel_size_m} m wide, and must hold it")
    if diameter_m < pixel_size_m:
        faults.append(f"diameter_m is {diameter_m}; it must be at least the pixel, {pixel_size_m} m")
    if not 0 <= edge_m <= diameter_m:
        faults.append(f"edge_m is {edge_m}; allowed is from 0 to diameter_m, {diameter_m}")
    if defocus_m and not (wavelength_m and wavelength_m > 0):
        faults.append(f"defocus_m is {defocus_m} but wavelength_m is {wavelength_m}; a defocus needs a wavelength")
    if faults:
        raise DatasetError(report(title, faults))
    x = (np.arange(frame_size) - frame_size // 2) * pixel_size_m
    inside = diameter_m / 2 - np.hypot(x[:, None], x[None])
    disc = 0.5 + 0.5 * np.sin(np.pi * np.clip(inside / max(edge_m, pixel_size_m), -0.5, 0.5))
    if not defocus_m or wavelength_m is None:
        return normalised(disc.astype(np.complex128))
    f = scipy.fft.fftfreq(frame_size, pixel_size_m)
    chirp = np.exp(-1j * np.pi * wavelength_m * defocus_m * f**2)
    return normalised(scipy.fft.ifft2(scipy.fft.fft2(disc) * chirp[:, None] * chirp[None]))


def diffused(probe: ComplexArray, *, phase_rad: float = 2.0, grain_px: float = 8.0, seed: int = 0) -> ComplexArray:
    """Return `probe` behind a thin random phase screen on the sample, such as a sheet of paper.

    A smooth wave does not carry the low frequencies of a sample's phase into a near-field frame; a diffuser does
    (Stockmar et al., Scientific Reports 3, 1927 (2013)).

    Parameters
    ----------
    probe:
        (M, H, W) or (H, W); all modes see the same screen.
    phase_rad:
        Standard deviation of the phase, radians.
    grain_px:
        Size of the largest grains, pixels; above 0.
    seed:
        Of the screen.
    """
    positive("diffuser", grain_px=grain_px)
    rng = np.random.default_rng(seed)
    screen = power_law_field((probe.shape[-2], probe.shape[-1]), rng, 2.5, grain_px)
    return np.asarray(probe * np.exp(1j * phase_rad * screen), dtype=np.complex64)


def probe_diameter_m(probe: ComplexArray, pixel_size_m: float, fraction: float = 0.9) -> float:
    """Return the diameter of the circle about the probe's centroid that holds `fraction` of its intensity.

    A uniform disc of diameter D gives ``sqrt(0.9) * D`` = 0.95 D; an Airy focus about twice its first dark ring.

    Parameters
    ----------
    probe:
        (M, H, W) or (H, W); the intensities of the modes add up.
    pixel_size_m:
        Object pixel, metres; 1 for a result in pixels.
    fraction:
        Share of the intensity inside, above 0 and below 1.

    Raises
    ------
    DatasetError
        When `fraction` is out of these, or the probe's intensity is not finite and above 0.
    """
    if not 0 < fraction < 1:
        raise DatasetError(f"probe_diameter_m: fraction is {fraction}; allowed is above 0 and below 1")
    intensity = (np.abs(probe).astype(np.float64) ** 2).reshape(-1, *probe.shape[-2:]).sum(axis=0)
    total = intensity.sum()
    if not (np.isfinite(total) and total > 0):
        raise DatasetError(f"probe_diameter_m: the probe's intensity sums to {total}; it must be finite and above 0")
    y, x = np.indices(intensity.shape)
    r = np.hypot(y - (intensity * y).sum() / total, x - (intensity * x).sum() / total).ravel()
    order = np.argsort(r)
    inside = np.cumsum(intensity.ravel()[order]) / total
    # The pixels nearest the centroid fill an area, of which the circle's is the smooth measure.
    area_px = np.interp(fraction, inside, np.arange(1, inside.size + 1))
    return float(2 * np.sqrt(area_px / np.pi) * pixel_size_m)
