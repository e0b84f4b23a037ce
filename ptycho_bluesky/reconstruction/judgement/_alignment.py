"""Several reconstructions of one field on one grid, free of what the data leave undetermined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Reconstruction, align_phase
from ptycho_bluesky.optics import fourier_shift

__all__ = ["Aligned", "aligned"]

_Pixel = TypeVar("_Pixel", bound=np.generic)

ComplexArray = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Aligned:
    """The first slice of a reconstruction, brought over another one's."""

    object: ComplexArray
    """(Y, X) on the grid of the reference, with its phase, ramp, scale and place."""

    inside: npt.NDArray[np.bool_]
    """(Y, X) True where both were scanned."""

    shift: npt.NDArray[np.float64]
    """(2,) rows and columns, pixels, by which the image was moved."""


def aligned(member: Reconstruction, reference: Reconstruction, max_shift_px: float = 8.0) -> Aligned:
    """Bring the object of `member` over that of `reference`.

    Ptychography leaves free a phase, a linear phase ramp, a scale and a common shift of object and probe. The shift is
    found by correlation (:func:`align_phase`); then phase, ramp and the rest of the shift together by least squares on
    the phase of ``member * conj(reference)``, which does not mind where the phases themselves wrap.

    Raises
    ------
    ReconstructionError
        When pixel sizes differ, or no scanned pixel is common to both.
    """
    pixel, own_pixel = reference.pixel_size_m or 1.0, member.pixel_size_m or 1.0
    if abs(pixel - own_pixel) > 1e-4 * pixel or (reference.pixel_size_m is None) != (member.pixel_size_m is None):
        raise ReconstructionError(
            f"pixel sizes are {reference.pixel_size_m} and {member.pixel_size_m}; only reconstructions with equal ones "
            "can be compared: reconstruct both with the same frame size and geometry"
        )
    offset = np.rint((np.asarray(member.origin) - np.asarray(reference.origin)) / pixel).astype(int)
    target = reference.object[0]
    seen = _pasted(member.field_of_view, target.shape, offset, False)
    inside = reference.field_of_view & seen
    if not inside.any():
        raise ReconstructionError("two reconstructions have no scanned pixel in common; compare the same field")
    image = _pasted(member.object[0], target.shape, offset, 0)
    phase, wanted = (np.where(inside, np.angle(v), np.nan) for v in (image, target))
    shift = np.array(align_phase(phase, wanted, max_shift_px)[2])
    # Outside the field stand noise of any strength and, with a ramp, an edge: a shift would carry their ringing inside.
    image = image * np.exp(-1j * _slope(np.where(seen, image, 0)))
    image = np.where(seen, image, image[seen].mean()).astype(np.complex64)
    for _ in range(4):
        moved, inside = fourier_shift(image, shift), reference.field_of_view & _still_seen(seen, shift)
        if not inside.any():
            raise ReconstructionError(f"no scanned pixel is in common after a shift of {shift} pixels; scan more")
        plane, rest = _fit(moved, target, inside)
        shift = np.clip(shift + rest, -max_shift_px, max_shift_px)
    moved = moved * np.exp(-1j * plane)
    own, other = np.abs(moved[inside]), np.abs(target[inside])
    scale = float((own * other).sum(dtype=np.float64) / (own**2).sum(dtype=np.float64))
    return Aligned(np.asarray(moved * scale, np.complex64), inside, shift)


def _still_seen(seen: npt.NDArray[np.bool_], shift: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return where a field that was moved still shows what was seen, away from its rim by what the move blurs."""
    moved = scipy.ndimage.shift(seen.astype(np.float32), shift, order=1, cval=0.0) > 0.999
    blurred = bool((np.abs(shift) > 0.05).any())
    return np.asarray(scipy.ndimage.binary_erosion(moved, iterations=2) if blurred else moved)


def _slope(wave: npt.NDArray[np.complexfloating[Any, Any]]) -> npt.NDArray[np.float64]:
    """Return the plane (Y, X), radians, 0 in the middle, of the mean slope of a wave's phase; 0 where not seen."""
    y, x = np.meshgrid(*(np.arange(n) - n / 2 for n in wave.shape), indexing="ij")
    plane = np.angle((wave[1:] * wave[:-1].conj()).sum()) * y
    return np.asarray(plane + np.angle((wave[:, 1:] * wave[:, :-1].conj()).sum()) * x)


def _pasted(
    image: npt.NDArray[_Pixel], shape: tuple[int, ...], offset: npt.NDArray[np.integer[Any]], empty: complex
) -> npt.NDArray[_Pixel]:
    """Return an image of `shape` that holds `image` with its first pixel at `offset`, `empty` elsewhere."""
    result = np.full(shape, empty, image.dtype)
    first = np.maximum(offset, 0)
    last = np.minimum(offset + image.shape, shape)
    if (last > first).all():
        source = tuple(slice(a - o, b - o) for a, b, o in zip(first, last, offset, strict=True))
        result[first[0] : last[0], first[1] : last[1]] = image[source]
    return result


def _fit(
    image: ComplexArray, target: ComplexArray, inside: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the phase plane (Y, X) by which `image` differs from `target`, and the shift (2,) that is left."""
    product = np.where(inside, image * target.conj(), 0)
    plane = _slope(product)
    plane += np.angle((product * np.exp(-1j * plane)).sum())
    y, x = np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in target.shape), indexing="ij")
    power = np.maximum(np.abs(target) ** 2, 1e-6)
    slopes = [(target.conj() * np.gradient(target, axis=axis)).imag / power for axis in (0, 1)]
    terms = [np.ones(target.shape), y, x, *slopes]
    design = np.stack([term[inside] for term in terms], axis=1).astype(np.float64)
    rest = np.angle(product[inside] * np.exp(-1j * plane[inside]))
    fit = np.linalg.lstsq(design, rest, rcond=None)[0]
    plane = plane + sum(share * term for share, term in zip(fit[:3], terms[:3], strict=True))
    return np.asarray(plane), np.asarray(fit[3:])
