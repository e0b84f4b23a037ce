"""A whole simulated measurement, and its truth on the grid of a reconstruction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import Geometry, ObjectGrid, Orientation, PtychoDataset, ScanPattern
from ptycho_bluesky.optics._detector import DetectorModel
from ptycho_bluesky.optics._forward import diffraction
from ptycho_bluesky.optics._propagators import NearField, propagator_for
from ptycho_bluesky.optics._stage import PositionErrors

__all__ = ["object_corners", "simulate_dataset", "truth_on_grid"]

ComplexArray = npt.NDArray[np.complex64]

FRAMES_PER_BATCH = 256
"""Frames whose expected photons are held at once."""


def object_corners(
    positions_m: npt.ArrayLike, object_shape: tuple[int, int], frame_size: int, pixel_size_m: float
) -> npt.NDArray[np.float64]:
    """Return the (N, 2) patch corners, object pixels, of a probe whose centre is at `positions_m` (N, 2).

    Position (0, 0) is the middle of the object, its pixel ``[Y // 2, X // 2]``; the probe's centre is its pixel
    ``[H // 2, W // 2]``, with H = W = `frame_size`.
    """
    middle = np.array([object_shape[0] // 2, object_shape[1] // 2])
    return np.asarray(np.asarray(positions_m, np.float64) / pixel_size_m + middle - frame_size // 2)


def simulate_dataset(
    obj: ComplexArray,
    probe: ComplexArray,
    pattern: ScanPattern,
    geometry: Geometry,
    photons_per_frame: float,
    *,
    detector: DetectorModel | None = None,
    errors: PositionErrors | None = None,
    orientation: Orientation | None = None,
    probe_guess: ComplexArray | None = None,
    slice_distance_m: float | None = None,
    seed: int = 0,
    name: str = "simulated",
) -> PtychoDataset:
    """Measure an object: frames with noise, positions as recorded, mask and a guess of the probe.

    Position (0, 0) is the middle of the object, its pixel ``[Y // 2, X // 2]``. The object must hold every patch.

    Parameters
    ----------
    obj:
        (Y, X) complex64 transmission, on the pixel grid of `geometry` and the probe's frame size; (slices, Y, X) for a
        thick object, the slice that the beam meets first in front.
    probe:
        (M, H, W) complex64 incoherent modes, or (H, W); of any norm.
    pattern:
        Positions as recorded.
    geometry:
        Far or near field.
    photons_per_frame:
        Photons that meet the sample in each frame.
    detector:
        None for a detector with nothing but shot noise.
    errors:
        How the true positions differ from the recorded ones; None for not at all.
    orientation:
        How the detector is mounted: frames and mask are returned as it delivers them, so that
        ``orientation.apply(frames)`` brings them into the house's axes. None for the house's axes.
    probe_guess:
        (M, H, W) for the dataset, of any norm; None for the true probe.
    slice_distance_m:
        From one slice to the next, metres; needed where there are several.
    seed:
        Of the shot noise.
    name:
        Of the dataset.

    Returns
    -------
    PtychoDataset
        Frames (N, H, W) uint16 or uint32; the probe guess has ``sum |P|**2 = photons_per_frame``.

    Raises
    ------
    DatasetError
        When shapes do not fit, a patch leaves the object, or the photons are not above 0.
    """
    if not photons_per_frame > 0:
        raise DatasetError(f"photons_per_frame is {photons_per_frame}; it must be above 0")
    scaled = _with_photons("probe", probe, photons_per_frame, probe.shape[-1])
    guess = scaled if probe_guess is None else _with_photons("guess", probe_guess, photons_per_frame, probe.shape[-1])
    size, detector, orientation = probe.shape[-1], detector or DetectorModel(), orientation or Orientation()
    pixel_m = geometry.pixel_size_m(size)
    true_m = pattern.positions if errors is None else errors.true_positions(pattern.positions)
    corners = object_corners(true_m, (obj.shape[-2], obj.shape[-1]), size, pixel_m)
    between = None if slice_distance_m is None else NearField(size, pixel_m, geometry.wavelength_m, slice_distance_m)
    propagator, rng = propagator_for(geometry, geometry.modality, size), np.random.default_rng(seed)
    frames = np.empty((len(pattern), size, size), detector.dtype)
    for start in range(0, len(pattern), FRAMES_PER_BATCH):
        chosen = slice(start, start + FRAMES_PER_BATCH)
        expected = diffraction(scaled, obj, corners[chosen], propagator, between)
        frames[chosen] = detector.measure(orientation.undo(expected), rng)
    mask = detector.mask((size, size))
    return PtychoDataset(
        frames=frames,
        positions=np.array(pattern.positions),
        geometry=geometry,
        modality=geometry.modality,
        pixel_size_m=pixel_m,
        mask=mask if mask.any() else None,
        probe=guess,
        name=name,
        source={"simulated": True, "seed": seed, "photons_per_frame": float(photons_per_frame)},
    ).validate()


def _with_photons(title: str, probe: ComplexArray, photons: float, size: int) -> ComplexArray:
    """Return `probe` as (M, H, W) with ``sum |probe|**2 = photons``."""
    if probe.ndim not in (2, 3) or probe.shape[-2:] != (size, size):
        raise DatasetError(f"the {title} has shape {probe.shape}; allowed is (M, {size}, {size}) or ({size}, {size})")
    power = float((np.abs(probe).astype(np.float64) ** 2).sum())
    if not (np.isfinite(power) and power > 0):
        raise DatasetError(f"the {title}'s intensity sums to {power}; it must be finite and above 0")
    return np.asarray(probe * np.sqrt(photons / power), dtype=np.complex64).reshape(-1, size, size)


def truth_on_grid(obj: ComplexArray, grid: ObjectGrid, frame_size: int) -> ComplexArray:
    """Return the simulated object on the grid of a reconstruction, sub-pixel, to compare the two pixel by pixel.

    Parameters
    ----------
    obj:
        (Y, X) complex64, as given to :func:`simulate_dataset`: position (0, 0) is its pixel ``[Y // 2, X // 2]``.
    grid:
        ``dataset.object_grid()``, or any with the same pixel size as `obj`.
    frame_size:
        Pixels along a side of a frame.

    Returns
    -------
    numpy.ndarray
        (Y, X) complex64 of ``grid.shape``; vacuum (1) where the grid is larger than the object.
    """
    corner = object_corners([grid.origin], (obj.shape[0], obj.shape[1]), frame_size, grid.pixel_size)[0]
    corner = np.where(np.abs(corner - np.rint(corner)) < 1e-6, np.rint(corner), corner)  # rounding of metres / metres
    moved = [
        scipy.ndimage.affine_transform(
            part - vacuum, np.ones(2), corner, output_shape=grid.shape, order=3, mode="constant", output=np.float32
        )
        + vacuum
        for part, vacuum in ((obj.real, 1.0), (obj.imag, 0.0))
    ]
    return np.asarray(moved[0] + 1j * moved[1], dtype=np.complex64)
