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
from ptycho_bluesky.reconstruction.judgement import cropped, draw_scale_bar

__all__ = ["Panel", "save_panels"]


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
        image = cropped(panel.image)
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
        draw_scale_bar(axis, image.shape, panel.pixel_size_m)
    if title:
        figure.suptitle(title, fontsize=12)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise FormatError(f"picture {path} cannot be written: {error}; give a folder that can be written to") from None
    return path
