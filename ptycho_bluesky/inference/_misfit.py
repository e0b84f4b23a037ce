"""How far a patch is from explaining its frame: pushed through the known probe and compared with what was measured."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.inference._protocol import Patches
from ptycho_bluesky.optics import Propagator

__all__ = ["Misfit"]


def _resampler(size: int, count: int, scale: float, offset: float) -> npt.NDArray[np.float32]:
    """(size, count) linear interpolation from a patch's pixels to the frame's object pixels; 0 outside the patch."""
    place = (np.arange(size) - offset) / scale
    first = np.floor(place).astype(int)
    matrix = np.zeros((size, count), np.float32)
    for step, share in ((0, 1 - (place - first)), (1, place - first)):
        inside = (first + step >= 0) & (first + step < count)
        matrix[np.flatnonzero(inside), (first + step)[inside]] += share[inside].astype(np.float32)
    return matrix


class Misfit:
    """Relative misfit ``||sqrt(I) - s |F(P O)| || / ||sqrt(I)||`` of each patch O, s the best scale.

    0 means that the patch explains its frame, 1 that it explains nothing. Outside the patch the object is taken as 1.

    Parameters
    ----------
    probe:
        (modes, H, W).
    propagator:
        From the sample to the detector.
    """

    def __init__(self, probe: npt.NDArray[np.complex64], propagator: Propagator) -> None:
        self._probe, self._propagator = probe[:4], propagator

    def __call__(self, frames: npt.NDArray[np.float32], patches: Patches) -> npt.NDArray[np.float32]:
        """Return (B,) misfits of `patches` (B, h, w) against `frames` (B, H, W), zero frequency in the centre."""
        size, (_, h, w) = frames.shape[-1], patches.phase.shape
        phasor = np.exp(1j * patches.phase).astype(np.complex64)
        mean = (phasor * patches.weight).sum(axis=(1, 2), keepdims=True)
        phasor *= np.exp(-1j * np.angle(mean)).astype(np.complex64)
        if patches.amplitude is not None:
            phasor *= patches.amplitude
        if (h, w) != (size, size) or patches.scale != 1 or any(patches.offset):
            rows = _resampler(size, h, patches.scale, patches.offset[0])
            columns = _resampler(size, w, patches.scale, patches.offset[1])
            outside = 1 - rows.sum(axis=1)[:, None] * columns.sum(axis=1)[None]
            phasor = rows @ phasor @ columns.T + outside
        waves = np.asarray(self._propagator.forward(self._probe[None] * phasor[:, None]))
        model = np.sqrt((np.abs(waves) ** 2).sum(axis=1))
        measured = np.sqrt(np.fft.ifftshift(frames, axes=(-2, -1)) if self._propagator.reciprocal else frames)
        overlap, power = (measured * model).sum(axis=(1, 2)), (model**2).sum(axis=(1, 2))
        total = (measured**2).sum(axis=(1, 2))
        explained = overlap**2 / np.maximum(power * total, np.finfo(np.float32).tiny)
        return np.asarray(np.sqrt(np.clip(1 - explained, 0, 1)), np.float32)
