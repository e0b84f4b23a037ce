"""Large areas by tiles that overlap."""

# No "from __future__ import annotations" here: the queue server reads the annotations, and cannot as strings.

from collections.abc import Generator, Sequence
from typing import Any, Literal

import numpy as np
from bluesky.protocols import Flyable, Movable, Readable

from ptycho_bluesky.config import ScanLimits
from ptycho_bluesky.experiment import POSITION_UNITS_M, PtychographyMetadata, ScanPattern
from ptycho_bluesky.plans._annotations import for_queue_server
from ptycho_bluesky.plans._arguments import pattern_from
from ptycho_bluesky.plans._campaign import Campaign, Step
from ptycho_bluesky.plans._scan import MIN_OVERLAP

__all__ = ["ptycho_mosaic", "tile_centers"]


def tile_centers(
    area_m: tuple[float, float], tile_m: tuple[float, float], overlap_m: float
) -> list[tuple[int, int, float, float]]:
    """Return (row, column, y, x) of the tiles that cover an area about 0, in the order of a snake.

    Parameters
    ----------
    area_m, tile_m:
        Height and width, metres.
    overlap_m:
        Least width that neighbouring tiles share, metres; the tiles are spread evenly, and may share more.
    """
    axes = []
    for area, tile in zip(area_m, tile_m, strict=True):
        stride = tile - overlap_m
        count = max(1, int(np.ceil((area - overlap_m) / stride - 1e-9)))
        reach = max(0.0, (area - tile) / 2)
        axes.append(np.linspace(-reach, reach, count) if count > 1 else np.zeros(1))
    found = []
    for row, y in enumerate(axes[0]):
        columns = list(enumerate(axes[1]))
        found += [(row, column, float(y), float(x)) for column, x in (columns if row % 2 == 0 else columns[::-1])]
    return found


@for_queue_server
def ptycho_mosaic(
    detectors: Sequence[Readable],
    y: Movable,
    x: Movable,
    tile: ScanPattern | dict[str, Any],
    *,
    height_m: float,
    width_m: float,
    metadata: PtychographyMetadata | dict[str, Any],
    tile_overlap_m: float | None = None,
    center_m: Sequence[float] = (0.0, 0.0),
    coarse_y: Movable | None = None,
    coarse_x: Movable | None = None,
    coarse_unit: Literal["m", "mm", "um", "nm"] = "um",
    coarse_signs: Sequence[int] = (1, 1),
    flyer: Flyable | None = None,
    exposure_s: float | None = None,
    period_s: float | None = None,
    md: dict[str, Any] | None = None,
    min_overlap: float | None = MIN_OVERLAP,
    limits: ScanLimits | dict[str, Any] | None = None,
    first_index: int = 0,
) -> Generator[Any, Any, tuple[str, ...]]:
    """Measure a large area by tiles that overlap, one run a tile; ``catalog.dataset_from_runs`` joins them.

    Without coarse axes y and x go everywhere. With them, y and x scan each tile about their zero, the coarse axes go to
    its middle, and ``position_offset_m`` tells where that is. The campaign's axis is ``tile``.

    Parameters
    ----------
    detectors : list of Readable
        As for :func:`ptycho_tomo`.
    y, x : Movable
        Axes that move the sample along the object's rows (y, down) and columns (x, to the right).
    tile : ScanPattern or dict
        Pattern of one tile about (0, 0).
    height_m : float
        Of the area, metres.
    width_m : float
        Of the area, metres.
    metadata : PtychographyMetadata or dict
        As for :func:`ptycho_scan`.
    tile_overlap_m : float, optional
        Least width that neighbouring tiles share, metres; the probe's diameter where None.
    center_m : list of float
        Middle (y, x) of the area, metres.
    coarse_y, coarse_x : Movable, optional
        Axes that go from tile to tile.
    coarse_unit : str
        That the coarse axes are set in.
    coarse_signs : list of int
        -1 where a coarse axis counts against the object's rows or columns.
    flyer : Flyable, optional
        As for :func:`ptycho_tomo`.
    exposure_s : float, optional
        As for :func:`ptycho_tomo`.
    period_s : float, optional
        As for :func:`ptycho_tomo`.
    md : dict, optional
        More metadata for all start documents.
    min_overlap : float or None
        As for :func:`ptycho_scan`.
    limits : ScanLimits or dict, optional
        What the mosaic as a whole may cost; those of the settings where None.
    first_index : int
        As for :func:`ptycho_tomo`.

    Returns
    -------
    tuple of str
        The runs' uids.

    Raises
    ------
    PlanError
        With all faults, before anything has moved.
    """
    common = metadata, flyer, exposure_s, period_s, md, min_overlap, limits, first_index
    campaign = Campaign("ptycho_mosaic", "tile", detectors, y, x, *common, same_place=False)
    scanned, block, faults = pattern_from(tile), campaign.block(), []
    shared = block.probe_diameter_m if tile_overlap_m is None else tile_overlap_m
    if shared is None or not 0 <= shared < min(scanned.extent_m):
        faults.append(
            f"tile_overlap_m is {shared}; give 0 up to below the tile's sides, {scanned.extent_m[0]:.4g} and "
            f"{scanned.extent_m[1]:.4g} m (or metadata with probe_diameter_m)"
        )
    if not (0 < height_m < 1 and 0 < width_m < 1) or len(center_m) != 2:
        faults.append(f"height_m {height_m}, width_m {width_m}: above 0 and below 1 m; center_m {center_m} is (y, x)")
    if (coarse_y is None) != (coarse_x is None):
        faults.append("give both coarse axes, or none")
    if coarse_unit not in POSITION_UNITS_M or any(sign not in (-1, 1) for sign in coarse_signs):
        faults.append(
            f"coarse_unit is {coarse_unit!r}, allowed are m, mm, um, nm; coarse_signs {coarse_signs}, 1 or -1"
        )
    steps = []
    for index, (row, column, dy, dx) in enumerate(
        [] if faults else tile_centers((height_m, width_m), scanned.extent_m, shared or 0.0)
    ):
        middle = (center_m[0] + dy, center_m[1] + dx)
        more: dict[str, int | float | str] = {"row": row, "column": column, "y_m": middle[0], "x_m": middle[1]}
        if coarse_y is None or coarse_x is None:
            steps.append(Step(index, scanned.moved(middle), block, more=more))
            continue
        unit = POSITION_UNITS_M[coarse_unit]
        moves = {coarse_y: middle[0] * coarse_signs[0] / unit, coarse_x: middle[1] * coarse_signs[1] / unit}
        offset = tuple(a + b for a, b in zip(block.position_offset_m, middle, strict=True))
        steps.append(Step(index, scanned, block.model_copy(update={"position_offset_m": offset}), moves, more))
    return (
        yield from campaign.run(
            steps, [(coarse_y, coarse_unit, "coarse_y"), (coarse_x, coarse_unit, "coarse_x")], faults
        )
    )
