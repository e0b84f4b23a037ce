"""Bluesky plans for ptychography: :func:`ptycho_scan`, the stubs it is made of, and what a scan would cost."""

if __name__ == "plans":
    raise ImportError("import 'ptycho_bluesky.plans', not 'plans'")

from ptycho_bluesky.plans._arguments import PATTERNS, device_positions, metadata_from, pattern_from
from ptycho_bluesky.plans._estimate import ScanEstimate, estimate_scan
from ptycho_bluesky.plans._scan import MIN_OVERLAP, ptycho_scan
from ptycho_bluesky.plans._stubs import halt, move_and_read, save_once_wrapper

__all__ = [
    "MIN_OVERLAP",
    "PATTERNS",
    "ScanEstimate",
    "device_positions",
    "estimate_scan",
    "halt",
    "metadata_from",
    "move_and_read",
    "pattern_from",
    "ptycho_scan",
    "save_once_wrapper",
]
