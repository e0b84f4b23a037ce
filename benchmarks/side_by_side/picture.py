"""All reconstructions in one picture: a row for each dataset, one grey scale for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Panels = dict[str, npt.NDArray[np.float64]]
"""Title to phase (Y, X), NaN outside the scanned field."""


def cropped(phase: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    known = np.isfinite(phase)
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    return phase[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def picture(path: Path, rows: dict[str, Panels]) -> None:
    """Write the picture."""
    columns = max(len(panels) for panels in rows.values())
    figure = Figure(figsize=(3.2 * columns, 3.5 * len(rows)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line in axes.flat:
        line.set_axis_off()
    for line, (dataset, panels) in zip(axes, rows.items(), strict=True):
        everything = np.concatenate([phase[np.isfinite(phase)] for phase in panels.values()])
        low, high = np.percentile(everything, [0.5, 99.5])
        for axis, (title, phase) in zip(line, panels.items(), strict=False):
            shown = axis.imshow(cropped(phase), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axis.set_title(title, fontsize=8)
        figure.colorbar(shown, ax=list(line), shrink=0.8, label=f"{dataset}: phase (rad)")
    figure.savefig(path)
