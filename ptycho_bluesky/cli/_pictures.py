"""Pictures of results: phase images with a scale bar, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ptycho_bluesky.errors import FormatError

__all__ = ["Panel", "save_panels", "scale_bar_m"]


@dataclass(frozen=True)
class Panel:
    """One image of a picture."""

    title: str
    image: npt.NDArray[np.floating]
    """(Y, X), NaN where nothing is known."""
    pixel_size_m: float | None = None
    """For the scale bar; None draws one in pixels."""
    unit: str = "rad"
    cmap: str = "gray"


def scale_bar_m(width_m: float) -> float:
    """Return a round length (1, 2 or 5 times a power of ten) of about a quarter of `width_m`."""
    target = width_m / 4
    power = 10.0 ** np.floor(np.log10(target))
    return float(power * max(f for f in (1, 2, 5) if f * power <= target * (1 + 1e-9)))


def _length(metres: float) -> str:
    return f"{metres * 1e6:g} µm" if metres >= 0.999e-6 else f"{metres * 1e9:g} nm"


def _cropped(image: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Cut away the border where nothing is known."""
    known = np.isfinite(image)
    if not known.any():
        return image
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def save_panels(path: Path, panels: Sequence[Panel], title: str = "") -> Path:
    """Write `panels` beside each other into one PNG file.

    Raises
    ------
    FormatError
        When the file cannot be written.
    """
    figure = Figure(figsize=(4.2 * len(panels), 3.7 + 0.3 * bool(title)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(np.asarray(figure.subplots(1, len(panels))))
    for axis, panel in zip(axes, panels, strict=True):
        image = _cropped(panel.image)
        axis.set_title(panel.title, fontsize=11)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_facecolor("0.85")
        known = image[np.isfinite(image)]
        low, high = np.percentile(known, [0.5, 99.5]) if known.size else (0.0, 1.0)
        shown = axis.imshow(image, cmap=panel.cmap, vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        bar = figure.colorbar(shown, ax=axis, shrink=0.8, pad=0.02)
        bar.set_label(panel.unit, fontsize=9)
        bar.ax.tick_params(labelsize=8)
        height, width = image.shape
        pixel = panel.pixel_size_m or 1.0
        length = scale_bar_m(width * pixel)
        label = _length(length) if panel.pixel_size_m else f"{length:g} px"
        x, y = 0.05 * width, 0.94 * height
        axis.plot([x, x + length / pixel], [y, y], color="white", linewidth=5, solid_capstyle="butt")
        axis.plot([x, x + length / pixel], [y, y], color="black", linewidth=3, solid_capstyle="butt")
        text = axis.text(x, y - 0.02 * height, label, color="black", fontsize=9, va="bottom")
        text.set_bbox({"facecolor": "white", "alpha": 0.7, "pad": 1.5, "edgecolor": "none"})
    if title:
        figure.suptitle(title, fontsize=12)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise FormatError(f"picture {path} cannot be written: {error}; give a folder that can be written to") from None
    return path
