"""Numbers sixteen at a time and a Fourier transform made of them, for compiled passes of reconstruction and inference.

Needs numba, as those passes do; nothing here knows of frames, probes or objects.
"""

from ptycho_bluesky.transforms._fft import FASTMATH, RADICES, Plan, can_transform, forward, inverse, plan_for
from ptycho_bluesky.transforms._lanes import (
    LANES,
    aligned,
    emitted,
    highest,
    lanes,
    larger,
    load,
    logarithm,
    root,
    splat,
    store,
    total,
    transpose,
    transpose_rows,
    where_bad,
)
from ptycho_bluesky.transforms._waves import from_waves, to_waves

__all__ = [
    "FASTMATH",
    "LANES",
    "RADICES",
    "Plan",
    "aligned",
    "can_transform",
    "emitted",
    "forward",
    "from_waves",
    "highest",
    "inverse",
    "lanes",
    "larger",
    "load",
    "logarithm",
    "plan_for",
    "root",
    "splat",
    "store",
    "to_waves",
    "total",
    "transpose",
    "transpose_rows",
    "where_bad",
]
