"""From the exit wave to the detector and back: far field (Fraunhofer) and near field (Fresnel)."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.experiment import Geometry, Modality

__all__ = ["FarField", "NearField", "NearFieldMethod", "Propagator", "propagator_for"]

ComplexWave = npt.NDArray[np.complex64]

NearFieldMethod = Literal["fresnel", "angular-spectrum"]
"""Paraxial, or exact for plane waves of any angle."""


class Propagator(Protocol):
    """A unitary map from the sample's plane to the detector's; ``backward`` is its inverse and adjoint."""

    @property
    def frame_size(self) -> int:
        """Pixels along a side of the square frames."""
        ...

    @property
    def reciprocal(self) -> bool:
        """True where the detector's plane is reciprocal space, and its zero frequency is to be moved to the centre."""
        ...

    def forward(self, wave: ComplexWave, /) -> ComplexWave:
        """Take waves (..., H, W) from the sample to the detector."""
        ...

    def backward(self, wave: ComplexWave, /) -> ComplexWave:
        """Take waves (..., H, W) from the detector to the sample."""
        ...


def _checked_size(frame_size: int) -> int:
    if frame_size < 2:
        raise DatasetError(f"frame_size is {frame_size}; a frame needs 2 pixels a side at the least")
    return int(frame_size)


class FarField:
    """Fraunhofer propagation, ``psi = fft2(wave)``, zero frequency at the corner ``[0, 0]``, unitary.

    Parameters
    ----------
    frame_size:
        Pixels along a side of the square frames.
    """

    reciprocal = True

    def __init__(self, frame_size: int) -> None:
        self.frame_size = _checked_size(frame_size)

    def forward(self, wave: ComplexWave, /) -> ComplexWave:
        """Take waves (..., H, W) from the sample to the detector; complex64 stays complex64."""
        return np.asarray(scipy.fft.fft2(wave, norm="ortho"))

    def backward(self, wave: ComplexWave, /) -> ComplexWave:
        """Take waves (..., H, W) from the detector to the sample."""
        return np.asarray(scipy.fft.ifft2(wave, norm="ortho"))


class NearField:
    """Propagation over a distance, same pixel size on both sides, unitary and periodic.

    ``"fresnel"``, the paraxial angular spectrum: ``ifft2(fft2(wave) * exp(-1j * pi * wavelength * distance * (fx**2 +
    fy**2)))`` (Goodman, Introduction to Fourier Optics, eq. 4-20, its constant phase left out). ``"angular-spectrum"``:
    ``exp(2j * pi * distance * (sqrt(1 / wavelength**2 - fx**2 - fy**2) - 1 / wavelength))`` (ibid., eq. 3-74), waves
    that would be evanescent left as they are. A cone beam is the parallel beam of the effective distance and pixel
    (Fresnel scaling theorem: Paganin, Coherent X-Ray Optics, app. B), which holds in the paraxial regime.

    The frame is periodic: light that leaves on one side comes in on the other. Features of size ``a`` spread by
    ``wavelength * distance / a``, so keep the probe that far from the frame's border.

    Parameters
    ----------
    frame_size:
        Pixels along a side of the square frames.
    pixel_size_m, wavelength_m:
        Object pixel and wavelength, metres.
    distance_m:
        Effective distance, metres (``Geometry.effective_distance_m``); negative goes upstream.
    method:
        ``"fresnel"`` or ``"angular-spectrum"``; the two differ where ``wavelength / (2 pixel)`` is no small angle.

    Raises
    ------
    DatasetError
        When pixel or wavelength is not above 0, or the distance is not finite.
    """

    reciprocal = False

    def __init__(
        self,
        frame_size: int,
        pixel_size_m: float,
        wavelength_m: float,
        distance_m: float,
        method: NearFieldMethod = "fresnel",
    ) -> None:
        faults = [
            f"{name} is {value}; it must be above 0"
            for name, value in (("pixel_size_m", pixel_size_m), ("wavelength_m", wavelength_m))
            if not value > 0
        ]
        if not np.isfinite(distance_m):
            faults.append(f"distance_m is {distance_m}; it must be finite")
        if faults:
            raise DatasetError(report("near-field propagation", faults))
        self.frame_size = _checked_size(frame_size)
        f = scipy.fft.fftfreq(self.frame_size, pixel_size_m)
        # In double: the phase has thousands of radians.
        if method == "fresnel":
            chirp = np.exp(-1j * np.pi * wavelength_m * distance_m * f**2)
            self.transfer: ComplexWave = (chirp[:, None] * chirp[None]).astype(np.complex64)
            return
        squared = (wavelength_m * f[:, None]) ** 2 + (wavelength_m * f[None]) ** 2
        cosine = np.sqrt(np.maximum(1 - squared, 0))
        detour = -squared / (1 + cosine)  # cosine - 1 without cancellation
        phase = np.where(squared < 1, 2 * np.pi * distance_m / wavelength_m * detour, 0)
        self.transfer = np.exp(1j * phase).astype(np.complex64)

    def forward(self, wave: ComplexWave, /) -> ComplexWave:
        """Take waves (..., H, W) from the sample to the detector; complex64 stays complex64."""
        return np.asarray(scipy.fft.ifft2(scipy.fft.fft2(wave) * self.transfer))

    def backward(self, wave: ComplexWave, /) -> ComplexWave:
        """Take waves (..., H, W) from the detector to the sample."""
        return np.asarray(scipy.fft.ifft2(scipy.fft.fft2(wave) * self.transfer.conj()))


def propagator_for(
    geometry: Geometry | None, modality: Modality, frame_size: int, method: NearFieldMethod = "fresnel"
) -> FarField | NearField:
    """Return the propagator of a dataset.

    Parameters
    ----------
    geometry:
        May be None in the far field, which needs no lengths.
    modality:
        ``"far-field"`` or ``"near-field"``.
    frame_size:
        Pixels along a side of the square frames.
    method:
        Of the near field.

    Raises
    ------
    DatasetError
        When the near field lacks its geometry, or geometry and modality disagree.
    """
    if geometry is not None and geometry.modality != modality:
        raise DatasetError(f"the modality is {modality!r} but the geometry says {geometry.modality!r}; make them agree")
    if modality == "far-field":
        return FarField(frame_size)
    if geometry is None:
        raise DatasetError("near field needs a geometry: energy_kev, distance_m, detector_pixel_m, focus_to_sample_m")
    return NearField(
        frame_size, geometry.pixel_size_m(frame_size), geometry.wavelength_m, geometry.effective_distance_m, method
    )
