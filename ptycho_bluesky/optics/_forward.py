"""The forward model: which photons a detector may expect, from probe, object and the places of the probe."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.optics._propagators import Propagator

__all__ = ["diffraction", "fourier_shift", "object_patches"]

ComplexArray = npt.NDArray[np.complex64]

WAVES_PER_BATCH = 2**19
"""Wave pixels held at once: 4 MiB of complex64 stays near the processor's cache."""


def fourier_shift(wave: ComplexArray, shift: npt.ArrayLike) -> ComplexArray:
    """Move waves by fractions of a pixel, by a phase ramp in reciprocal space (periodic).

    Parameters
    ----------
    wave:
        (..., H, W) complex64.
    shift:
        (..., 2) rows and columns, pixels; positive moves towards larger indices. Its leading axes broadcast
        against those of `wave`.
    """
    moved = scipy.fft.ifft2(scipy.fft.fft2(wave) * _ramp(np.asarray(shift, np.float64), wave.shape[-2:]))
    return np.asarray(moved, dtype=np.complex64)


def _ramp(shift: npt.NDArray[np.float64], shape: tuple[int, ...]) -> ComplexArray:
    rows, columns = (
        np.exp(-2j * np.pi * shift[..., axis, None] * scipy.fft.fftfreq(size)).astype(np.complex64)
        for axis, size in enumerate(shape)
    )
    return np.asarray(rows[..., :, None] * columns[..., None, :])


def object_patches(
    obj: npt.NDArray[np.complex64], corners: npt.NDArray[np.integer[Any]], shape: tuple[int, int]
) -> ComplexArray:
    """Return (N, H, W), a copy of the object's patches of `shape` (H, W) at whole-pixel `corners` (N, 2)."""
    windows = np.lib.stride_tricks.sliding_window_view(obj, shape)
    return np.asarray(windows[corners[:, 0], corners[:, 1]])


def diffraction(
    probe: ComplexArray,
    obj: ComplexArray,
    corners: npt.ArrayLike,
    propagator: Propagator,
    between: Propagator | None = None,
) -> npt.NDArray[np.float32]:
    """Return the expected photons of each frame: ``sum over modes |propagate(P_m * O_patch)|**2``.

    Fractions of a corner move the probe, by a Fourier ramp. In the near field the exit wave is then moved back,
    since it is the object that moves while beam and detector stay. A thick object is a stack of thin slices, free
    space between them (Maiden, Humphry and Rodenburg, JOSA A 29, 1606 (2012), eqs. 1 to 4).

    Parameters
    ----------
    probe:
        (M, H, W) complex64, incoherent modes; a single (H, W) is one mode. ``sum |probe|**2`` = photons in a frame.
    obj:
        (Y, X) complex64 transmission, or (slices, Y, X), the slice that the beam meets first in front.
    corners:
        (N, 2) upper left corner (row, column) of each patch in object pixels, with fractions, within
        ``0 ... (Y - H, X - W)``.
    propagator:
        From the last slice to the detector, of the probe's frame size.
    between:
        From one slice to the next; None for a single slice.

    Returns
    -------
    numpy.ndarray
        (N, H, W) float32; far field: zero frequency in the centre ``[H // 2, W // 2]``.

    Raises
    ------
    DatasetError
        When shapes do not fit, or a patch leaves the object.
    """
    probe = np.asarray(probe, np.complex64)
    probe = probe[None] if probe.ndim == 2 else probe
    obj, corners = np.asarray(obj, np.complex64), np.asarray(corners, np.float64)
    slices = obj[None] if obj.ndim == 2 else obj
    shape = (probe.shape[-2], probe.shape[-1])
    _check(probe, slices, corners, propagator, between)
    whole = np.rint(corners).astype(np.intp)
    fractions = corners - whole
    moving = bool((np.abs(fractions) > 1e-6).any())
    spectrum = scipy.fft.fft2(probe) if moving else None
    result = np.empty((len(corners), *shape), np.float32)
    step = max(1, WAVES_PER_BATCH // probe.size)
    for start in range(0, len(corners), step):
        chosen = slice(start, start + step)
        waves, ramp = probe, None
        if spectrum is not None:
            ramp = _ramp(fractions[chosen], shape)[:, None]
            waves = scipy.fft.ifft2(spectrum * ramp, overwrite_x=True)
        for number, thin in enumerate(slices):
            waves = between.forward(waves) if number and between is not None else waves
            waves = waves * object_patches(thin, whole[chosen], shape)[:, None]
        if ramp is not None and not propagator.reciprocal:  # in the far field it has no effect on the intensity
            waves = scipy.fft.ifft2(scipy.fft.fft2(waves, overwrite_x=True) * ramp.conj(), overwrite_x=True)
        waves = propagator.forward(waves)
        intensity = (waves.real**2 + waves.imag**2).sum(axis=1)
        result[chosen] = scipy.fft.fftshift(intensity, axes=(-2, -1)) if propagator.reciprocal else intensity
    return result


def _check(
    probe: ComplexArray,
    slices: ComplexArray,
    corners: npt.NDArray[np.float64],
    propagator: Propagator,
    between: Propagator | None,
) -> None:
    faults, size = [], propagator.frame_size
    if probe.ndim != 3 or probe.shape[-2:] != (size, size):
        faults.append(f"the probe has shape {probe.shape}; the propagator wants (modes, {size}, {size})")
    shape = slices.shape[1:]
    if slices.ndim != 3 or not len(slices) or min(shape) < size:
        given = shape if slices.ndim == 3 and len(slices) == 1 else slices.shape
        faults.append(f"the object has shape {given}; allowed is (Y, X) or (slices, Y, X), Y and X at least {size}")
    elif len(slices) > 1 and (between is None or between.frame_size != size):
        faults.append(f"{len(slices)} slices need a propagator between them, of frame size {size}")
    if corners.ndim != 2 or corners.shape[-1] != 2:
        faults.append(f"corners have shape {corners.shape}; allowed is (N, 2), rows then columns")
    elif not faults:
        limit = np.array(shape) - size
        outside = ~((corners >= -1e-6) & (corners <= limit + 1e-6)).all(axis=1)
        if outside.any():
            first = int(outside.argmax())
            faults.append(
                f"{int(outside.sum())} of {len(corners)} patches leave the object of {shape} pixels, the first is "
                f"{first} at ({corners[first, 0]:.1f}, {corners[first, 1]:.1f}); allowed is (0, 0) to {tuple(limit)}: "
                "make the object larger or the scan smaller"
            )
    if faults:
        raise DatasetError(report("forward model", faults))
