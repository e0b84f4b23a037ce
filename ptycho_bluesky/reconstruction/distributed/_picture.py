"""A partition as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from ptycho_bluesky.reconstruction.distributed._partition import Partition

__all__ = ["draw"]

PIXELS = 1024
"""Most pixels along a side of the map of shared pixels; the object is thinned to that."""


def draw(partitions: Sequence[Partition], path: Path) -> None:
    """Draw partitions side by side: frames in their owner's colour, tiles outlined, shared pixels darkened."""
    figure = Figure(figsize=(5 * len(partitions), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(partitions), squeeze=False)[0]
    for axes, partition in zip(panels, partitions, strict=True):
        height, width = partition.shape
        sharers = np.zeros(partition.shape, np.int16)
        for rank, tile in enumerate(partition.tiles):
            sharers[tile] += partition.lit(rank)
        thin = max(1, -(-max(height, width) // PIXELS))
        middle = partition.corners + partition.frame_size / 2
        axes.scatter(middle[:, 1], middle[:, 0], c=partition.owner % 20, s=4, cmap="tab20", vmin=0, vmax=19)
        shared = np.ma.masked_less(sharers[::thin, ::thin], 2)
        axes.imshow(shared, cmap="Greys", vmin=0, vmax=5, alpha=0.45, extent=(0, width, height, 0), zorder=2)
        if partition.kind != "random":  # there all tiles are the whole object
            for rows, columns in partition.tiles:
                size = (columns.stop - columns.start, rows.stop - rows.start)
                axes.add_patch(Rectangle((columns.start, rows.start), *size, fill=False, lw=0.6, alpha=0.5))
        sent = partition.report()["halo_bytes"]
        axes.set_title(
            f"{partition.kind}, {len(partition)} ranks\n"
            f"a rank sends {sent['mean'] / 1e6:.3g} MB an exchange (most {sent['most'] / 1e6:.3g})",
            fontsize=10,
        )
        axes.set_xlabel("column, object pixels")
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
    panels[0].set_ylabel("row, object pixels")
    figure.savefig(path, dpi=110)
