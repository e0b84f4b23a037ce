"""Partial coherence: orthogonal, mutually incoherent modes of a probe."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import DatasetError, report

__all__ = ["coherent_modes"]

ComplexArray = npt.NDArray[np.complex64]


def _orders(modes: int) -> list[tuple[int, int]]:
    """Return the first `modes` pairs of Hermite orders (row, column), lowest sum first."""
    pairs = [(total - column, column) for total in range(modes) for column in range(total + 1)]
    return pairs[:modes]


def _weights(orders: list[tuple[int, int]], coherent_fraction: float) -> npt.NDArray[np.float64]:
    """Return the modes' shares ``q**(order)``, normalised, with `coherent_fraction` for the first."""
    order = np.array([sum(pair) for pair in orders])
    equation = np.bincount(order).astype(np.float64)  # sum of q**order = 1 / coherent_fraction, in powers of q
    equation[0] -= 1 / coherent_fraction
    roots = np.polynomial.polynomial.polyroots(equation)
    q = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)].min()  # all coefficients but one: one such root
    weights = np.asarray(q**order)
    return np.asarray(weights / weights.sum())


def _hermite(
    coordinate: npt.NDArray[np.float64], weight: npt.NDArray[np.float64], order: int
) -> npt.NDArray[np.float64]:
    """Return the Hermite polynomial of `order`, in units of the beam's own mean and width along an axis."""
    mean = (coordinate * weight).sum()
    width = np.sqrt(((coordinate - mean) ** 2 * weight).sum())
    return np.asarray(np.polynomial.hermite_e.hermeval((coordinate - mean) / max(width, 1e-30), [0.0] * order + [1.0]))


def coherent_modes(
    probe: ComplexArray, modes: int, coherent_fraction: float, plane: Literal["pupil", "sample"] = "pupil"
) -> ComplexArray:
    """Return the coherent modes of a partially coherent beam, of which `probe` is the first.

    A Gaussian Schell-model source has Hermite-Gauss modes with weights that fall geometrically (Starikov and Wolf,
    J. Opt. Soc. Am. 72, 923 (1982)). Seen through the optics they are the pupil times Hermite polynomials; those
    of the lowest orders are taken, made orthogonal in turn (so the first stays as it is) and given geometric
    weights such that the first has `coherent_fraction` of the photons.

    Parameters
    ----------
    probe:
        (H, W) complex64, the fully coherent probe.
    modes:
        How many.
    coherent_fraction:
        Share of the first mode: 1 for one mode; above ``1 / modes`` (all alike) and below 1 for several.
    plane:
        Where the polynomials multiply: ``"pupil"`` (reciprocal space) for a focused beam, ``"sample"`` for a
        pinhole that cuts a beam just before the sample.

    Returns
    -------
    numpy.ndarray
        (modes, H, W) complex64, orthogonal, strongest first, with the photons of `probe` all together.

    Raises
    ------
    DatasetError
        When the number of modes and the coherent fraction do not fit together.
    """
    faults = []
    if probe.ndim != 2:
        faults.append(f"the probe has shape {probe.shape}; allowed is (H, W), one coherent wave")
    if modes < 1:
        faults.append(f"modes is {modes}; at least 1 is needed")
    elif modes == 1 and coherent_fraction != 1:
        faults.append(f"coherent_fraction is {coherent_fraction} with 1 mode; give 1, or more modes for the rest")
    elif modes > 1 and not 1 / modes < coherent_fraction < 1:
        faults.append(
            f"coherent_fraction is {coherent_fraction} with {modes} modes; allowed is above {1 / modes:.4g} (all modes "
            "alike) and below 1 (nothing left for the others)"
        )
    if faults:
        raise DatasetError(report("coherent modes", faults))
    if modes == 1:
        return np.asarray(probe[None], dtype=np.complex64)
    orders = _orders(modes)
    field = probe.astype(np.complex128)
    field = scipy.fft.fftshift(scipy.fft.fft2(field, norm="ortho")) if plane == "pupil" else field
    power = float((np.abs(field) ** 2).sum())
    share = np.abs(field) ** 2 / power
    rows, columns = (np.arange(size, dtype=np.float64) for size in field.shape)
    basis = [
        field * _hermite(rows, share.sum(axis=1), i)[:, None] * _hermite(columns, share.sum(axis=0), j)[None]
        for i, j in orders
    ]
    orthogonal, triangle = np.linalg.qr(np.stack([b.ravel() for b in basis], axis=1))
    phases = np.diagonal(triangle) / np.abs(np.diagonal(triangle))  # QR leaves a sign free; the first is the probe
    waves = (orthogonal * phases).T.reshape(modes, *field.shape)
    if plane == "pupil":
        waves = scipy.fft.ifft2(scipy.fft.ifftshift(waves, axes=(-2, -1)), norm="ortho")
    amplitude = np.sqrt(power * _weights(orders, coherent_fraction))
    return np.asarray(waves * amplitude[:, None, None], dtype=np.complex64)
