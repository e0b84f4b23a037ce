"""Frames and probes of any size, brought to the size that a network was made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import Orientation
from ptycho_bluesky.inference._binning import Binner, Places, places_for
from ptycho_bluesky.optics import probe_diameter_m

__all__ = ["Fitting", "fit_probe", "window"]

Scalar = TypeVar("Scalar", bound=np.generic)

ROOM = 0.65
"""Widest beam that a network was trained for, as a share of its field."""

KEPT = 0.7
"""Least share of the probe's intensity that must stay on the detector after cropping."""


@dataclass(frozen=True)
class Fitting:
    """How frames of one size become frames of another: binned, then cropped or filled up, about their centre.

    Binning (adding ``binning`` x ``binning`` pixels) narrows the field on the sample and keeps the resolution;
    cropping keeps the field and makes the object's pixels larger.
    """

    given: int
    """Side of the frames, pixels."""

    wanted: int
    """Side of the network's frames, pixels."""

    binning: int = 1
    """Detector pixels added up, along each axis."""

    @property
    def binned(self) -> int:
        """Side of the frames after binning."""
        return self.given // self.binning

    @property
    def scale(self) -> float:
        """Object pixels of the given frames for each pixel of the network's patches."""
        return self.binned / self.wanted

    @property
    def offset(self) -> tuple[float, float]:
        """Place of the patch's first pixel in object pixels from the given frame's patch corner."""
        first = float(self.given // 2 - self.binned // 2)
        return first, first

    def frames(self, frames: npt.NDArray[np.float32], shift: tuple[int, int] = (0, 0)) -> npt.NDArray[np.float32]:
        """Return frames (B, wanted, wanted) of `frames` (B, given, given), zero frequency in the centre.

        Parameters
        ----------
        frames:
            float32 counts.
        shift:
            Rows and columns, detector pixels, by which they are rolled first.
        """
        binner, places = Binner(np.zeros((self.given, self.given), bool)), self.places(shift)
        fitted = np.empty((len(frames), self.wanted, self.wanted), np.float32)
        for k, frame in enumerate(np.ascontiguousarray(frames, np.float32)):
            fitted[k] = binner(frame, places)[0]
        return fitted

    def places(self, shift: tuple[int, int] = (0, 0), mounted: Orientation | None = None) -> Places:
        """Return where a detector's pixels go, frames being turned as `mounted` says and then rolled by `shift`."""
        way = mounted or Orientation()
        flip = way.flip_rows, way.flip_columns
        return places_for(self.given, self.binning, self.wanted, shift=shift, transpose=way.transpose, flip=flip)

    def good(self, mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        """Return (wanted, wanted), True where all detector pixels behind a pixel are good; `mask`: True = bad."""
        fine = np.ones((self.given, self.given), bool) if mask is None else np.logical_not(mask)
        n, b = self.binned, self.binning
        whole = np.asarray(fine[: n * b, : n * b].reshape(n, b, n, b).all(axis=(1, 3)), bool)
        return window(whole, self.wanted)

    def probe(self, probe: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
        """Return the probe (modes, wanted, wanted) that belongs to the fitted frames, total intensity 1."""
        probe = window(probe, self.binned)
        x = np.arange(self.binned) - self.binned // 2
        away = (self.binning - 1) / (2 * self.binning)  # the binned pixel's middle lies this far off the frequency
        ramp = np.exp(-2j * np.pi * away * x / self.binned)
        probe = (probe * ramp[:, None] * ramp[None]).astype(np.complex64)
        spectrum = window(scipy.fft.fftshift(scipy.fft.fft2(probe, norm="ortho"), axes=(-2, -1)), self.wanted)
        total = float(np.linalg.norm(probe))
        fitted = scipy.fft.ifft2(scipy.fft.ifftshift(spectrum, axes=(-2, -1)), norm="ortho")
        kept = (float(np.linalg.norm(fitted)) / total) ** 2 if total > 0 else 0.0
        if kept < KEPT:
            raise InferenceError(
                f"frames of {self.given} pixels are cropped to {self.wanted} for this network, which keeps {kept:.0%} "
                f"of the beam on the detector; it needs {KEPT:.0%}: bin the frames, or train a network of a larger "
                "size for this probe"
            )
        return np.asarray(fitted / np.linalg.norm(fitted), dtype=np.complex64)


def window(images: npt.NDArray[Scalar], size: int) -> npt.NDArray[Scalar]:
    """Crop or fill up (zeros) the last two axes to `size`, the centre ``[n // 2, n // 2]`` staying the centre."""
    for axis in (-2, -1):
        have = images.shape[axis]
        first = have // 2 - size // 2
        if first >= 0:
            images = np.take(images, range(first, first + size), axis) if first + size <= have else images
        if images.shape[axis] != size:
            pad = [(0, 0)] * images.ndim
            before = size // 2 - have // 2
            pad[axis] = (before, size - have - before)
            images = np.pad(images, pad)
    return images


def fit_probe(probe: npt.NDArray[np.complex64], given: int, wanted: int) -> Fitting:
    """Return the fitting of a probe's frames: as much binning as leaves the beam room in the field, then a crop."""
    binning, widest = 1, probe_diameter_m(probe, 1.0, 0.95)
    while given % (2 * binning) == 0 and given // (2 * binning) >= wanted and widest <= ROOM * given / (2 * binning):
        binning *= 2
    return Fitting(given, wanted, binning)
