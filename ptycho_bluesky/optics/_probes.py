"""Focused probes, computed from the optics that make them, on the object's pixel grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import DatasetError, report

__all__ = ["kb_probe", "normalised", "positive", "zone_plate_probe"]

ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float64]

SPARE_SPOTS = 4
"""The frame must hold the defocused cone and this many diffraction-limited spots."""


def _edge(inside_px: FloatArray) -> FloatArray:
    """Return the share of a pixel that an aperture covers whose border is `inside_px` pixels away."""
    return np.clip(inside_px + 0.5, 0.0, 1.0)


def normalised(wave: npt.NDArray[np.complexfloating]) -> ComplexArray:
    """Return `wave` as complex64 with ``sum |wave|**2 = 1``."""
    return np.asarray(wave / np.linalg.norm(wave), dtype=np.complex64)


def positive(title: str, **values: float) -> None:
    """Raise where one of `values` is not above 0."""
    faults = [f"{name} is {value}; it must be above 0" for name, value in values.items() if not value > 0]
    if faults:
        raise DatasetError(report(title, faults))


def _check_sampling(
    title: str, frame_size: int, pixel_size_m: float, wavelength_m: float, defocus_m: float, spot_m: float
) -> None:
    """Raise where the focused wave does not fit the frame; `spot_m` is wavelength over full divergence."""
    faults, frame_m = [], frame_size * pixel_size_m
    if pixel_size_m > spot_m:
        faults.append(
            f"the object pixel is {pixel_size_m * 1e9:.4g} nm, allowed is at most {spot_m * 1e9:.4g} nm (wavelength / "
            "full divergence): the beam is wider than the detector; move the detector nearer, or use a larger frame "
            "or detector pixel"
        )
    cone_m = abs(defocus_m) * wavelength_m / spot_m
    if cone_m + SPARE_SPOTS * spot_m > frame_m:
        faults.append(
            f"the frame is {frame_m * 1e6:.4g} um wide on the sample ({frame_size} pixels of {pixel_size_m * 1e9:.4g} "
            f"nm), the beam needs {(cone_m + SPARE_SPOTS * spot_m) * 1e6:.4g} um (cone of {cone_m * 1e6:.4g} um at "
            f"{defocus_m * 1e6:.4g} um defocus and {SPARE_SPOTS} spots of {spot_m * 1e9:.4g} nm): take a larger frame, "
            "a larger distance to the detector or less defocus"
        )
    if faults:
        raise DatasetError(report(title, faults))


def _focused(
    pupil: FloatArray, frame_size: int, pixel_size_m: float, wavelength_m: float, defocus_m: float
) -> ComplexArray:
    """Propagate a pupil (zero frequency at the corner) to its focus and on by `defocus_m`; centred, norm 1."""
    f = scipy.fft.fftfreq(frame_size, pixel_size_m)
    chirp = np.exp(-1j * np.pi * wavelength_m * defocus_m * f**2)
    return normalised(scipy.fft.fftshift(scipy.fft.ifft2(pupil * chirp[:, None] * chirp[None])))


def zone_plate_probe(
    frame_size: int,
    pixel_size_m: float,
    wavelength_m: float,
    *,
    diameter_m: float,
    outermost_zone_m: float,
    central_stop_m: float = 0.0,
    defocus_m: float = 0.0,
) -> ComplexArray:
    """Return the first-order focus of a zone plate with a central stop, seen `defocus_m` downstream of the focus.

    The pupil (an annulus) is Fourier transformed to the focal plane, ``f = diameter * outermost_zone / wavelength``
    away, and Fresnel propagated by the defocus. In focus, without stop: an Airy pattern whose first dark ring has
    the radius ``1.22 * outermost_zone`` (Attwood, Soft X-Rays and Extreme Ultraviolet Radiation, eq. 9.48). An
    order-sorting aperture is taken for granted: no other order, no direct light.

    Sampling: the pixel may be no larger than the outermost zone (else the zone plate's cone is wider than the
    detector), and the frame must hold the defocused cone, ``|defocus| * wavelength / outermost_zone``, and four
    outermost zones more (else the wave wraps around).

    Parameters
    ----------
    frame_size:
        Pixels along a side.
    pixel_size_m, wavelength_m:
        Object pixel and wavelength, metres.
    diameter_m, outermost_zone_m:
        Of the zone plate, metres.
    central_stop_m:
        Diameter of the central stop, metres; 0 for none.
    defocus_m:
        From the focus to the sample, metres, positive downstream.

    Returns
    -------
    numpy.ndarray
        (H, W) complex64, its centre at ``[H // 2, W // 2]``, ``sum |P|**2 = 1``.

    Raises
    ------
    DatasetError
        When a length is out of range or a sampling condition is not met.
    """
    title = "zone-plate probe"
    positive(
        title,
        pixel_size_m=pixel_size_m,
        wavelength_m=wavelength_m,
        diameter_m=diameter_m,
        outermost_zone_m=outermost_zone_m,
    )
    if not 0 <= central_stop_m < diameter_m:
        raise DatasetError(
            f"{title}: central_stop_m is {central_stop_m}; allowed is from 0 to below diameter_m, {diameter_m}"
        )
    _check_sampling(title, frame_size, pixel_size_m, wavelength_m, defocus_m, outermost_zone_m)
    f = scipy.fft.fftfreq(frame_size) * frame_size
    r = np.hypot(f[:, None], f[None])
    outer = frame_size * pixel_size_m / (2 * outermost_zone_m)  # radius of the pupil in reciprocal pixels
    pupil = _edge(outer - r)
    if central_stop_m > 0:
        pupil = pupil * (1 - _edge(outer * central_stop_m / diameter_m - r))
    return _focused(pupil, frame_size, pixel_size_m, wavelength_m, defocus_m)


def kb_probe(
    frame_size: int,
    pixel_size_m: float,
    wavelength_m: float,
    *,
    aperture_m: float | tuple[float, float],
    focal_length_m: float | tuple[float, float],
    defocus_m: float | tuple[float, float] = 0.0,
) -> ComplexArray:
    """Return the focus of a pair of Kirkpatrick-Baez mirrors: rectangular aperture, sinc-shaped focus.

    In focus each direction's amplitude is ``sinc(x * aperture / (wavelength * focal_length))``, its intensity
    0.886 ``wavelength * focal_length / aperture`` wide (full width at half maximum). The mirrors are free of
    figure errors.

    Sampling, in each direction: the pixel may be no larger than ``wavelength * focal_length / aperture``, and the
    frame must hold the defocused beam, ``|defocus| * aperture / focal_length``, and four such widths more.

    Parameters
    ----------
    frame_size:
        Pixels along a side.
    pixel_size_m, wavelength_m:
        Object pixel and wavelength, metres.
    aperture_m, focal_length_m, defocus_m:
        Opening, focal length and distance from the focus to the sample (positive downstream), metres: one value,
        or a pair (vertical, horizontal), for mirrors that differ or are astigmatic.

    Returns
    -------
    numpy.ndarray
        (H, W) complex64, its centre at ``[H // 2, W // 2]``, ``sum |P|**2 = 1``.

    Raises
    ------
    DatasetError
        When a length is out of range or a sampling condition is not met.
    """
    positive("KB probe", pixel_size_m=pixel_size_m, wavelength_m=wavelength_m)
    sides = []
    pairs = [np.broadcast_to(v, 2) for v in (aperture_m, focal_length_m, defocus_m)]
    for name, aperture, focal, defocus in zip(("vertical", "horizontal"), *pairs, strict=True):
        title = f"KB probe, {name}"
        positive(title, aperture_m=aperture, focal_length_m=focal)
        spot = wavelength_m * focal / aperture
        _check_sampling(title, frame_size, pixel_size_m, wavelength_m, defocus, spot)
        f = scipy.fft.fftfreq(frame_size) * frame_size
        pupil = _edge(frame_size * pixel_size_m / (2 * spot) - np.abs(f))
        chirp = np.exp(-1j * np.pi * wavelength_m * defocus * (f / (frame_size * pixel_size_m)) ** 2)
        sides.append(scipy.fft.fftshift(scipy.fft.ifft(pupil * chirp)))
    return normalised(sides[0][:, None] * sides[1][None])
