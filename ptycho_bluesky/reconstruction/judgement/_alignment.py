"""Several reconstructions of one field on one grid, free of what the data leave undetermined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

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
    target, field = reference.object[0], reference.field_of_view
    image = _pasted(member.object[0], target.shape, offset, member.object[0][member.field_of_view].mean())
    seen = _pasted(member.field_of_view, target.shape, offset, False)
    inside = field & seen
    if not inside.any():
        raise ReconstructionError("two reconstructions have no scanned pixel in common; compare the same field")
    # What lies outside the field is noise of any strength: a shift would carry its ringing inside.
    near = _pasted(member.coverage, target.shape, offset, 0) > 0.02
    image = np.where(near, image, image[inside].mean()).astype(np.complex64)
    phase, wanted = (np.where(inside, np.angle(v), np.nan) for v in (image, target))
    shift = np.array(align_phase(phase, wanted, max_shift_px)[2])
    plane = np.zeros(target.shape)
    for _ in range(3):
        plane, rest = _fit(fourier_shift(image, shift), target, inside)
        shift = np.clip(shift + rest, -max_shift_px, max_shift_px)
    moved = fourier_shift(image, shift) * np.exp(-1j * plane)
    own, other = np.abs(moved[inside]), np.abs(target[inside])
    scale = float((own * other).sum(dtype=np.float64) / (own**2).sum(dtype=np.float64))
    return Aligned(np.asarray(moved * scale, np.complex64), inside, shift)


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
    y, x = np.meshgrid(*(np.arange(n) - n / 2 for n in target.shape), indexing="ij")
    plane = np.angle((product[1:] * product[:-1].conj()).sum()) * y
    plane = plane + np.angle((product[:, 1:] * product[:, :-1].conj()).sum()) * x
    plane += np.angle((product * np.exp(-1j * plane)).sum())
    power = np.maximum(np.abs(target) ** 2, 1e-6)
    slopes = [(target.conj() * np.gradient(target, axis=axis)).imag / power for axis in (0, 1)]
    terms = [np.ones(target.shape), y / len(y), x / len(y), *slopes]
    design = np.stack([term[inside] for term in terms], axis=1).astype(np.float64)
    rest = np.angle(product[inside] * np.exp(-1j * plane[inside]))
    fit = np.linalg.lstsq(design, rest, rcond=None)[0]
    plane = plane + sum(share * term for share, term in zip(fit[:3], terms[:3], strict=True))
    return np.asarray(plane), np.asarray(fit[3:])
