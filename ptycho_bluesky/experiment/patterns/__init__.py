"""Scan patterns: where the probe goes, in metres, in steps or in flight, and what that means for overlap and dose."""

from ptycho_bluesky.experiment.patterns._fly_path import FlyPath
from ptycho_bluesky.experiment.patterns._grids import raster, snake
from ptycho_bluesky.experiment.patterns._lissajous import lissajous
from ptycho_bluesky.experiment.patterns._named import PATTERNS, pattern_again, pattern_named
from ptycho_bluesky.experiment.patterns._pattern import MOST_POSITIONS, ScanPattern
from ptycho_bluesky.experiment.patterns._points import from_positions, jittered
from ptycho_bluesky.experiment.patterns._regions import inside, region, within
from ptycho_bluesky.experiment.patterns._spirals import concentric, fermat

__all__ = [
    "MOST_POSITIONS",
    "PATTERNS",
    "FlyPath",
    "ScanPattern",
    "concentric",
    "fermat",
    "from_positions",
    "inside",
    "jittered",
    "lissajous",
    "pattern_again",
    "pattern_named",
    "raster",
    "region",
    "snake",
    "within",
]
