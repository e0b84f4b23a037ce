"""Incoherent probe modes: where further ones begin, and how they are kept orthogonal."""

from __future__ import annotations

import numpy as np
import scipy.fft

from ptycho_bluesky.reconstruction._model import ComplexArray

__all__ = ["orthogonal_modes", "with_modes"]


def with_modes(probe: ComplexArray, modes: int, share: float = 0.1) -> ComplexArray:
    """Return `modes` modes: those of `probe` (M, H, W), and where more are asked for, relatives of the first.

    A partially coherent beam is a beam convolved over small angles, a vibrating one over small shifts; their further
    modes look like the first one times low polynomials, in the sample's plane or in the pupil's. Each new mode is a
    random mixture of those up to second order, such that it has a part of whatever direction the true one takes, with
    `share` of the first one's power. All are orthogonal.
    """
    if modes <= len(probe):
        return np.ascontiguousarray(probe[:modes])
    rng, size = np.random.default_rng(0), probe.shape[-1]
    y, x = (np.indices((size, size)) - size // 2) / size
    spectrum = scipy.fft.fftshift(scipy.fft.fft2(probe[0]))
    terms = []
    for i, j in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2)):
        polynomial = y**i * x**j
        terms += [probe[0] * polynomial, scipy.fft.ifft2(scipy.fft.ifftshift(spectrum * polynomial))]
    flat = np.stack(terms).reshape(len(terms), -1)
    flat /= np.maximum(np.linalg.norm(flat, axis=1), np.finfo(np.float32).tiny)[:, None]
    count = modes - len(probe)
    mixing = rng.normal(size=(count, len(terms))) + 1j * rng.normal(size=(count, len(terms)))
    new = mixing @ flat
    new *= np.sqrt(share) * np.linalg.norm(probe[0]) / np.linalg.norm(new, axis=1)[:, None]
    new = new.reshape(count, size, size).astype(np.complex64)
    return orthogonal_modes(np.concatenate([probe, new]))


def orthogonal_modes(probe: ComplexArray) -> ComplexArray:
    """Return the same incoherent sum as orthogonal modes, strongest first (Thibault and Menzel, Nature 494, 68).

    The modes stand in the third axis from the end of `probe` (..., M, H, W).
    """
    if probe.shape[-3] == 1:
        return probe
    flat = probe.reshape(*probe.shape[:-2], -1)
    _, vectors = np.linalg.eigh(flat.astype(np.complex128) @ np.swapaxes(flat, -1, -2).conj())
    mixing = np.swapaxes(vectors[..., ::-1], -1, -2).conj()
    return np.asarray((mixing @ flat).reshape(probe.shape), dtype=np.complex64)
