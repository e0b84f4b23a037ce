"""What the frames alone tell: a beam beside the middle, a zero frequency in the corner, bad pixels, dark frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage

from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction.diagnosis._finding import DatasetFinding
from ptycho_bluesky.reconstruction.diagnosis._trial import gathered

__all__ = ["frame_findings", "pattern_center"]

SAMPLE = 128
"""Frames looked at, spread evenly over the scan."""

OFF_CENTER_PX, OFF_CENTER = 2.5, 0.03
"""Pixels, and share of a frame's side, by which the pattern must miss the middle before it is told: the larger."""

FloatImage = npt.NDArray[np.float64]


def frame_findings(dataset: PtychoDataset) -> list[DatasetFinding]:
    """Return what is wrong with the frames of a valid dataset, worst first; some of them are read."""
    few = gathered(dataset, np.unique(np.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).astype(np.int64)))
    frames = np.asarray(few.frames[:], np.float64)
    good = np.ones(few.frame_shape, bool) if few.mask is None else ~few.mask
    lit = frames[:, good]
    usable = np.isfinite(lit).all(axis=1) & (lit.min(axis=1) >= 0) & (lit.max(axis=1) > 0)
    findings = []
    if not usable.any():
        text = "none of the frames looked at can be used: they are not finite, negative or empty; check detector, mask"
        return [DatasetFinding("frames", "error", text)]
    mean = np.where(good, frames[usable].mean(axis=0), 0)
    if few.modality == "far-field":
        findings += _centre(mean)
    findings += _dark(lit, usable)
    findings += _saturated(lit[usable])
    findings += _bad_pixels(mean, good, int(usable.sum()))
    return findings


def pattern_center(mean: FloatImage) -> tuple[float, float, float]:
    """Return the point about which a mean pattern (H, W) is most symmetric: row, column, and how symmetric (0 to 1).

    The far field of a lens or a pinhole, and of most samples on the average, is the same turned by 180 degrees. The
    convolution of the amplitude with itself has its maximum at twice that point.
    """
    amplitude, size = np.sqrt(mean), mean.shape[0]
    both = scipy.fft.irfft2(scipy.fft.rfft2(amplitude, (2 * size, 2 * size)) ** 2, (2 * size, 2 * size))
    row, column = np.unravel_index(int(both.argmax()), both.shape)
    return float(row) / 2, float(column) / 2, float(both.max() / (amplitude**2).sum())


def _centre(mean: FloatImage) -> list[DatasetFinding]:
    size = len(mean)
    inner = slice(size // 4, size - size // 4)
    middle, corners = (float(image[inner, inner].sum()) for image in (mean, scipy.fft.fftshift(mean)))
    if corners > 2 * middle:
        text = (
            "the frames are bright at their corners and dark in the middle: the zero frequency is in the corner [0, 0] "
            "but is taken to be in the middle; set zero_frequency='corner' in the file, or apply numpy.fft.fftshift to "
            "the frames' axes"
        )
        return [DatasetFinding("zero frequency", "error", text)]
    row, column, symmetry = pattern_center(mean)
    away = (row - size // 2, column - size // 2)
    if symmetry < 0.7 or max(map(abs, away)) <= max(OFF_CENTER_PX, OFF_CENTER * size):
        return []
    text = (
        f"the frames are not centred: the pattern lies about ({row:g}, {column:g}), {away[0]:+g} rows and "
        f"{away[1]:+g} columns from the middle ({size // 2}, {size // 2}), and is cut on one side; give "
        f"beam_center_px=({row:g}, {column:g}), in pixels of the frames as loaded here"
    )
    return [DatasetFinding("centre", "warning", text)]


def _dark(lit: FloatImage, usable: npt.NDArray[np.bool_]) -> list[DatasetFinding]:
    findings, looked_at = [], len(lit)
    if bad := int((~usable).sum()):
        text = f"{bad} of {looked_at} frames looked at are not finite, negative or empty; they are left out"
        findings.append(DatasetFinding("frames", "warning", text))
    totals = lit[usable].sum(axis=1)
    if dark := int((totals < 0.2 * np.median(totals)).sum()):
        text = (
            f"{dark} of {looked_at} frames looked at hold less than a fifth of the light of the others: a closed "
            "shutter, a lost beam or a refill; leave them out"
        )
        findings.append(DatasetFinding("dark frames", "warning", text))
    return findings


def _saturated(lit: FloatImage) -> list[DatasetFinding]:
    top = float(lit.max())
    share = float(((lit == top).sum(axis=1) >= 2).mean())
    if top <= 50 or share < 0.05:  # a few counts are often the same by chance
        return []
    text = (
        f"in {share:.0%} of the frames two pixels or more hold exactly the largest value, {top:g}: the detector "
        "saturates; declare such pixels bad in the mask, or measure with less light"
    )
    return [DatasetFinding("saturation", "warning", text)]


def _bad_pixels(mean: FloatImage, good: npt.NDArray[np.bool_], frames: int) -> list[DatasetFinding]:
    around = scipy.ndimage.percentile_filter(mean, 25, footprint=_RING, mode="nearest")
    highest = scipy.ndimage.maximum_filter(mean, footprint=_RING, mode="nearest")
    dead = good & (mean == 0) & (around * frames > 20) & (frames >= 10)
    hot = good & (mean > 10 * highest + 10)
    parts = []
    for name, pixels in (("dead", dead), ("hot", hot)):
        places = [f"({row}, {column})" for row, column in np.argwhere(pixels)]
        if places:
            some = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
            parts.append(f"{len(places)} {name} pixel{'s' if len(places) > 1 else ''} at {some}")
    if not parts:
        return []
    text = f"{' and '.join(parts)} that the mask does not declare bad; set the mask True there"
    return [DatasetFinding("bad pixels", "warning", text)]


_RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
