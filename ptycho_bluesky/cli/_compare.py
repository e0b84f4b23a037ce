"""Specimen, live image and reconstruction on one grid: how well they agree, and pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from ptycho_bluesky.cli._pictures import Panel, save_panels
from ptycho_bluesky.devices import Beamline
from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import ObjectGrid, Reconstruction, align_phase, phase_correlation
from ptycho_bluesky.optics import truth_on_grid

__all__ = ["Images", "compare_with_truth", "live_on_grid", "pictures"]

Image = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Images:
    """Three images of one field, aligned with each other, (Y, X) radians, NaN outside the scanned field."""

    specimen: Image
    live: Image
    reconstruction: Image
    live_correlation: float
    """Pearson's, with the specimen, inside the scanned field."""
    reconstruction_correlation: float


def live_on_grid(mosaic: Path, rec: Reconstruction) -> Image:
    """Return the live phase of a mosaic file on the pixels of a reconstruction, NaN where it has none."""
    with np.load(mosaic) as saved:
        phase, origin, pixel = saved["phase"], saved["origin"], float(saved["pixel_size"])
    unit = rec.pixel_size_m or 1.0
    first = (np.asarray(rec.origin) - origin) / pixel
    rows, columns = (first[axis] + np.arange(rec.object.shape[1 + axis]) * unit / pixel for axis in (0, 1))
    known = np.isfinite(phase)
    places = np.meshgrid(rows, columns, indexing="ij")
    inside = scipy.ndimage.map_coordinates(known.astype(np.float32), places, order=1, cval=0.0) > 0.999
    values = scipy.ndimage.map_coordinates(np.where(known, phase, 0), places, order=1, cval=0.0)
    return np.where(inside, values, np.nan)


def compare_with_truth(beamline: Beamline, rec: Reconstruction, mosaic: Path) -> Images:
    """Bring the sample, the live image and the reconstruction onto one grid and correlate their phases.

    Raises
    ------
    DatasetError
        When the beamline is no simulation, and so has no truth.
    """
    if beamline.truth is None:
        raise DatasetError("this beamline plays a measurement back: there is no truth to compare with")
    frame_size = rec.probe.shape[-1]
    pixel = rec.pixel_size_m or 1.0
    corners = (rec.positions - np.asarray(rec.origin)) / pixel
    grid = ObjectGrid((rec.object.shape[1], rec.object.shape[2]), corners, rec.origin, pixel)
    field = rec.field_of_view
    truth = np.where(field, np.angle(truth_on_grid(beamline.truth, grid, frame_size)), np.nan)
    live = np.where(field, live_on_grid(mosaic, rec), np.nan)
    aligned, specimen, _ = align_phase(rec.phase, truth)
    live_aligned, _, _ = align_phase(live, truth)
    return Images(
        specimen,
        live_aligned,
        aligned,
        live_correlation=phase_correlation(live, truth),
        reconstruction_correlation=phase_correlation(rec.phase, truth),
    )


def pictures(folder: Path, images: Images, rec: Reconstruction) -> list[Path]:
    """Write the three images side by side, and the reconstruction with its probe; return the files."""
    pixel = rec.pixel_size_m
    live, good = images.live_correlation, images.reconstruction_correlation
    side_by_side = save_panels(
        folder / "specimen-live-reconstruction.png",
        [
            Panel("specimen", images.specimen, pixel),
            Panel(f"live image (correlation {live:.2f})", images.live, pixel),
            Panel(f"reconstruction (correlation {good:.3f})", images.reconstruction, pixel),
        ],
    )
    return [side_by_side, result_picture(folder / "reconstruction.png", rec)]


def result_picture(path: Path, rec: Reconstruction, title: str = "") -> Path:
    """Write phase, amplitude and probe of a reconstruction beside each other."""
    return save_panels(
        path,
        [
            Panel("phase", rec.phase, rec.pixel_size_m),
            Panel("amplitude", rec.amplitude, rec.pixel_size_m, unit="transmission"),
            Panel("probe, strongest mode", np.abs(rec.probe[0]), rec.pixel_size_m, unit="sqrt(photons)", cmap="magma"),
        ],
        title or f"{rec.engine}: R = {rec.r_factor:.4f}, {rec.phase_contrast_rad:.2f} rad",
    )
