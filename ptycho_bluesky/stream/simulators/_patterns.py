"""Diffraction patterns to send: simulated, with shot noise, of a random specimen under a focused beam."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.optics import FarField, diffraction, disc_probe, random_specimen

__all__ = ["simulated_patterns"]

BRIGHT_FIELD = 0.25
"""Diameter of the bright-field disc in frames' widths."""
DEFOCUS_RAD = 40.0
"""Phase at the edge of the lens: spreads the beam over some tens of pixels on the sample."""


def simulated_patterns(
    count: int, size: int, dtype: npt.DTypeLike = "uint16", *, photons: float = 1e5, seed: int = 0
) -> npt.NDArray[np.unsignedinteger]:
    """Return `count` diffraction patterns of different places of one specimen.

    Parameters
    ----------
    count, size:
        Frames, and pixels along a side of each.
    dtype:
        Unsigned integers; counts beyond its range are cut off.
    photons:
        Expected photons in a frame.
    seed:
        Of specimen, places and noise.

    Returns
    -------
    numpy.ndarray
        (count, size, size), zero frequency in the centre.

    Raises
    ------
    SourceError
        When a parameter is out of range.
    """
    dtype = np.dtype(dtype)
    if count < 1 or size < 16 or dtype.kind != "u" or not photons > 0:
        raise SourceError(
            f"{count} patterns of {size} x {size} {dtype} with {photons} photons cannot be simulated; give 1 or more, "
            "of 16 x 16 or more, unsigned integers, and photons above 0"
        )
    rng = np.random.default_rng(seed)
    lens = disc_probe(size, 1.0, diameter_m=BRIGHT_FIELD * size)
    radius = np.hypot(*np.mgrid[-(size // 2) : size - size // 2, -(size // 2) : size - size // 2])
    pupil = lens * np.exp(1j * DEFOCUS_RAD * (radius / (BRIGHT_FIELD * size / 2)) ** 2)
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil), norm="ortho")).astype(np.complex64)
    probe *= np.float32(np.sqrt(photons / (np.abs(probe) ** 2).sum()))
    room = size + max(32, size // 4)
    specimen = random_specimen((room, room), rng)
    corners = np.rint(rng.uniform(0, room - size, (count, 2)))
    expected = diffraction(probe, specimen, corners, FarField(size))
    return np.minimum(rng.poisson(expected), np.iinfo(dtype).max).astype(dtype)
