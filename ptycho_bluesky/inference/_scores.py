"""How well a model images a beam: on measured frames whose reconstruction is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction, align_phase
from ptycho_bluesky.inference._misfit import Misfit
from ptycho_bluesky.inference._mosaic import Mosaic
from ptycho_bluesky.inference._protocol import Model, Predictor
from ptycho_bluesky.optics import propagator_for

__all__ = ["Scores", "compared", "on_grid", "scores", "ssim"]

BATCH = 8
SIGMA = 1.5
"""Of the window of the structural similarity, pixels."""

FloatImage = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Scores:
    """What a model reaches on held-out frames."""

    phase_correlation: float
    """Of its image with the reconstruction, both without offset and ramp; the mean over the parts of the field."""

    ssim: float
    """Structural similarity of the same images, the mean over the parts."""

    misfit: float
    """Mean over frames of ``||sqrt(I) - s |F(P O)| || / ||sqrt(I)||``: patches pushed through the probe."""

    parts: tuple[float, ...]
    """Phase correlation in each part of the field."""


def on_grid(
    rec: Reconstruction, origin: tuple[float, float], pixel_size: float, shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Return the phase (Y, X) of a reconstruction on another grid, NaN where it was not scanned.

    Parameters
    ----------
    rec:
        Whose transmission, slices multiplied, is low-passed to the pixel of the grid and sampled there.
    origin:
        Position (row, column) of the first pixel, in the unit of its positions.
    pixel_size:
        Side of a pixel of the grid, in the same unit.
    shape:
        (Y, X) of the grid.
    """
    pixel = rec.pixel_size_m or 1.0
    scale = pixel_size / pixel
    inside = rec.field_of_view
    wave = np.where(inside, rec.object.prod(axis=0), 0)
    parts = np.stack([wave.real, wave.imag, inside]).astype(np.float64)
    if scale > 1:
        parts = gaussian_filter(parts, (0, 0.45 * scale, 0.45 * scale))
    first = [(o - r) / pixel for o, r in zip(origin, rec.origin, strict=True)]
    rows, columns = (f + scale * np.arange(n) for f, n in zip(first, shape, strict=True))
    where = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    real, imaginary, seen = (map_coordinates(part, where, order=1, cval=0.0) for part in parts)
    return np.where(seen > 0.5, np.arctan2(imaginary, real), np.nan)


def ssim(image: FloatImage, reference: FloatImage) -> float:
    """Return the mean structural similarity of two aligned images (Y, X) where both are finite.

    Wang, Bovik, Sheikh & Simoncelli, IEEE Trans. Image Process. 13, 600 (2004), equation 13, with a Gaussian window of
    1.5 pixels and the range of the reference from its 1st to its 99th percentile.
    """
    inside = np.isfinite(image) & np.isfinite(reference)
    if not inside.any():
        return 0.0
    low, high = np.percentile(reference[inside], [1, 99])
    c1, c2 = (0.01 * (high - low)) ** 2 + 1e-12, (0.03 * (high - low)) ** 2 + 1e-12
    weight = np.maximum(gaussian_filter(inside.astype(np.float64), SIGMA), 1e-6)

    def mean(values: FloatImage) -> npt.NDArray[np.float64]:
        return np.asarray(gaussian_filter(np.where(inside, values, 0.0).astype(np.float64), SIGMA) / weight)

    a, b = (np.where(inside, v, 0.0) for v in (image, reference))
    ma, mb = mean(a), mean(b)
    va, vb, ab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    similarity = (2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return float(similarity[inside].mean())


def compared(image: FloatImage, reference: FloatImage) -> tuple[float, float]:
    """Return phase correlation and structural similarity of two phase images (Y, X), aligned first."""
    try:
        a, b, _ = align_phase(image, reference)
    except ValueError as error:
        raise InferenceError(f"the image and the reconstruction cannot be compared: {error}") from None
    inside = np.isfinite(a)
    flat = a[inside].std() == 0 or b[inside].std() == 0
    return 0.0 if flat else float(np.corrcoef(a[inside], b[inside])[0, 1]), ssim(a, b)


def _part(predictor: Predictor, misfit: Misfit, dataset: PtychoDataset, rec: Reconstruction) -> tuple[float, ...]:
    """Return correlation, similarity, and the sum of the misfits of one part of the field."""
    grid, mosaic, total, scale = dataset.object_grid(), Mosaic(), 0.0, 1.0
    good = np.True_ if dataset.mask is None else ~dataset.mask
    for chosen, raw in dataset.batches(BATCH):
        frames = np.where(good, raw, 0).astype(np.float32)
        patches = predictor(frames)
        total += float(misfit(frames, patches).sum())
        scale = patches.scale
        for k, corner in enumerate(grid.corners[chosen]):
            place = [(c + o) / scale for c, o in zip(corner, patches.offset, strict=True)]
            amplitude = None if patches.amplitude is None else patches.amplitude[k]
            mosaic.add(patches.phase[k], amplitude, patches.weight, (place[0], place[1]))
    phase = mosaic.maps(level=True)[0]
    rows, columns = (grid.origin[a] + mosaic.field[2 * a] * scale * grid.pixel_size for a in (0, 1))
    reference = on_grid(rec, (rows, columns), scale * grid.pixel_size, (phase.shape[0], phase.shape[1]))
    return *compared(phase, reference), total


def scores(model: Model, parts: list[PtychoDataset], rec: Reconstruction) -> Scores:
    """Return what a model reaches on some parts of a field, each with usable frames only.

    Raises
    ------
    InferenceError
        When the model cannot be used for this probe.
    """
    first = parts[0]
    size = first.frame_shape[0]
    predictor = model.for_probe(rec.probe, first.pixel_size_m, size, mask=first.mask)
    misfit = Misfit(rec.probe, propagator_for(first.geometry, first.modality, size))
    correlations, similarities, misfits = zip(*(_part(predictor, misfit, part, rec) for part in parts), strict=True)
    frames = sum(len(part) for part in parts)
    return Scores(
        phase_correlation=float(np.mean(correlations)),
        ssim=float(np.mean(similarities)),
        misfit=float(sum(misfits)) / frames,
        parts=tuple(correlations),
    )


def as_refined(dataset: PtychoDataset, rec: Reconstruction) -> PtychoDataset:
    """Return the dataset at the refined positions of its reconstruction."""
    if rec.positions.shape != dataset.positions.shape:
        raise InferenceError(
            f"dataset {dataset.name or '(unnamed)'} has {len(dataset)} positions, its reconstruction "
            f"{len(rec.positions)}; give the reconstruction of this dataset"
        )
    return replace(dataset, positions=rec.positions)
