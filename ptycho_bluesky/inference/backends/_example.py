"""Frames such as a probe makes, where no measured ones are at hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.inference.backends._protocol import Images

__all__ = ["example_frames"]


def example_frames(probe: npt.NDArray[np.complex64], good: npt.NDArray[np.bool_], count: int = 32) -> Images:
    """Return (count, N, N) frames of smooth random objects in a probe (modes, N, N), 1e4 to 1e6 counts each."""
    rng, n = np.random.default_rng(0), probe.shape[-1]
    q = np.hypot(*np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n)))
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(count, n, n))) / (q + 1 / n) ** 1.5).real
    thickness = noise / noise.std(axis=(1, 2), keepdims=True)
    patches = np.exp(thickness * (1j * rng.uniform(0.1, 0.6, (count, 1, 1)) - 0.05))
    waves = np.fft.fft2(probe * patches[:, None], norm="ortho")
    intensity = np.fft.fftshift((np.abs(waves) ** 2).sum(axis=1), axes=(1, 2)) / (np.abs(probe) ** 2).sum()
    counts = rng.poisson(intensity * 10 ** rng.uniform(4, 6, (count, 1, 1)))
    return np.where(good, counts, 0).astype(np.float32)
