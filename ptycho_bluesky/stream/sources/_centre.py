"""Where the direct beam meets the detector, from the frames themselves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from ptycho_bluesky.errors import DatasetError

__all__ = ["find_centre"]

EDGE = 0.1
"""Part of the bright field's level at which it ends."""
SMALLEST_PX = 9
"""Pixels below which a bright patch is no bright field."""


def find_centre(mean: npt.NDArray[np.floating], bad: npt.NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """Return the centre (row, column) of the bright field in the mean of many frames, pixels.

    The mean over a scan shows the probe's far field, a disc or a square, with the sample's scattering washed out. Hot
    pixels go by a median over 3 x 3; what exceeds a tenth of the bright level and hangs together with its largest part
    is the bright field, and its centroid, every pixel counting the same, is the centre: stripes in the beam do not move
    it.

    Parameters
    ----------
    mean:
        (H, W) mean of raw frames.
    bad:
        (H, W) True on bad pixels; None where all are good.

    Raises
    ------
    DatasetError
        When there is no light, or its bright part reaches the border, so that its centre cannot be known.
    """
    if mean.ndim != 2 or (bad is not None and bad.shape != mean.shape):
        raise DatasetError(
            f"a mean frame of shape {mean.shape} and a mask of shape {None if bad is None else bad.shape}; give two "
            "pictures of the same shape"
        )
    light = np.array(mean, np.float32)
    good = np.isfinite(light) if bad is None else np.isfinite(light) & ~bad
    if not good.any() or not (light[good] > 0).any():
        raise DatasetError("the mean frame has no light on good pixels: open the shutter, or mend the mask")
    if not good.all():  # a gap takes what its nearest good pixel has
        light = light[tuple(scipy.ndimage.distance_transform_edt(~good, return_distances=False, return_indices=True))]
    light = scipy.ndimage.median_filter(light, 3)
    bright = light > EDGE * np.partition(light.ravel(), -SMALLEST_PX)[-SMALLEST_PX:].min()
    labels, count = scipy.ndimage.label(bright)
    if count == 0:
        raise DatasetError("the mean frame has single bright pixels but no bright field: take more frames, or longer")
    sizes = scipy.ndimage.sum_labels(bright, labels, np.arange(1, count + 1))
    field = labels == 1 + int(np.argmax(sizes))
    if field.sum() < SMALLEST_PX:
        raise DatasetError(
            f"the bright field has {int(field.sum())} pixels, fewer than {SMALLEST_PX}: take more frames, or longer"
        )
    if field[[0, -1]].any() or field[:, [0, -1]].any():
        raise DatasetError(
            "the bright field reaches the frame's border, so its centre is not known: give centre_px, or move the "
            "detector"
        )
    rows, columns = np.nonzero(field)
    return float(rows.mean()), float(columns.mean())
