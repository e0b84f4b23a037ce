"""Frames grouped by what lights them: the probe they belong to, and the fraction of a pixel it is moved by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.reconstruction._model import ComplexArray

__all__ = ["ProbeGroups"]


@dataclass(frozen=True)
class ProbeGroups:
    """Frames grouped by probe and by the fraction of their corner, rounded to ``1 / divisions`` of a pixel.

    Each group has its own copy of its probe, moved by that fraction, while an engine works on it; afterwards the copies
    are moved back and averaged. With 1 division, corners are rounded to whole pixels: the largest error is half a
    pixel.
    """

    corners: npt.NDArray[np.int64]
    """(N, 2) whole pixels."""

    of_frame: npt.NDArray[np.int64]
    """(N,) the group of each frame."""

    sets: npt.NDArray[np.int64]
    """(G,) the probe of each group, an index of the first axis of ``Model.probe``."""

    fractions: npt.NDArray[np.float64]
    """(G, 2) pixels, above -0.5 and up to 0.5."""

    @classmethod
    def of(cls, corners: npt.NDArray[np.float64], divisions: int, sets: npt.NDArray[np.int64]) -> ProbeGroups:
        """Group (N, 2) corners, in pixels, of frames with probes `sets` (N,)."""
        rounded = np.rint(corners * divisions).astype(np.int64)
        whole = -((divisions - 2 * rounded) // (2 * divisions))  # half a pixel stays behind, so that it is one group
        keys = np.column_stack([sets, rounded - whole * divisions])
        groups, of_frame = np.unique(keys, axis=0, return_inverse=True)
        return cls(whole, of_frame.ravel().astype(np.int64), groups[:, 0], groups[:, 1:] / divisions)

    def phases(self, size: int) -> ComplexArray:
        """Return (G, H, W), which multiplies the Fourier transform of a probe to move it by the group's fraction."""
        ramps = np.exp(-2j * np.pi * self.fractions[:, :, None] * scipy.fft.fftfreq(size)).astype(np.complex64)
        return np.asarray(ramps[:, 0, :, None] * ramps[:, 1, None, :])

    def spread(self, probe: ComplexArray) -> ComplexArray:
        """Return (G, M, H, W), the probe (sets, M, H, W) of each group, moved by its fraction."""
        if not self.fractions.any():
            return probe[self.sets]
        spectrum = scipy.fft.fft2(probe)[self.sets] * self.phases(probe.shape[-1])[:, None]
        return np.asarray(scipy.fft.ifft2(spectrum, overwrite_x=True), np.complex64)

    def gather(self, copies: ComplexArray, visits: npt.NDArray[np.integer], probe: ComplexArray) -> ComplexArray:
        """Return (sets, M, H, W): copies (workers, G, M, H, W) moved back and averaged, weighted by `visits`.

        A probe without a visit stays what it is in `probe` (sets, M, H, W).
        """
        whole = not self.fractions.any()
        phases = None if whole else self.phases(probe.shape[-1]).conj()[:, None]
        gathered = np.empty_like(probe)
        for number in range(len(probe)):
            mine = np.flatnonzero(self.sets == number)
            total = visits[:, mine].sum()
            if not total:
                gathered[number] = probe[number]
                continue
            shares = (visits[:, mine] / total).astype(np.float32)
            mean = np.einsum("tc,tcmij->cmij", shares, copies[:, mine])
            if phases is None:
                gathered[number] = mean.sum(axis=0)
            else:  # summed between the transforms: one way back for each mode
                spectrum = scipy.fft.fft2(mean, overwrite_x=True) * phases[mine]
                gathered[number] = scipy.fft.ifft2(spectrum.sum(axis=0))
        return gathered
