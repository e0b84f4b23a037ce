"""Bluesky plans for ptychography: in steps and in flight, campaigns of them, what they would cost, and their parts."""

if __name__ == "plans":
    raise ImportError("import 'ptycho_bluesky.plans', not 'plans'")

from ptycho_bluesky.plans._arguments import PATTERNS, device_positions, metadata_from, pattern_from
from ptycho_bluesky.plans._campaign import Campaign, Step
from ptycho_bluesky.plans._campaigns import ptycho_energies, ptycho_focus, ptycho_series, ptycho_tomo
from ptycho_bluesky.plans._dry_run import DryRun, DryScan, dry_run
from ptycho_bluesky.plans._estimate import ScanEstimate, estimate_scan
from ptycho_bluesky.plans._flight import fly_flight, prepare_flight
from ptycho_bluesky.plans._fly import fly_path, ptycho_fly
from ptycho_bluesky.plans._mosaic import ptycho_mosaic, tile_centers
from ptycho_bluesky.plans._resume import ptycho_resume
from ptycho_bluesky.plans._scan import MIN_OVERLAP, ptycho_scan
from ptycho_bluesky.plans._stubs import halt, move_and_read, save_once_wrapper, shutter_wrapper

__all__ = [
    "MIN_OVERLAP",
    "PATTERNS",
    "Campaign",
    "DryRun",
    "DryScan",
    "ScanEstimate",
    "Step",
    "device_positions",
    "dry_run",
    "estimate_scan",
    "fly_flight",
    "fly_path",
    "halt",
    "metadata_from",
    "move_and_read",
    "pattern_from",
    "prepare_flight",
    "ptycho_energies",
    "ptycho_fly",
    "ptycho_focus",
    "ptycho_mosaic",
    "ptycho_resume",
    "ptycho_scan",
    "ptycho_series",
    "ptycho_tomo",
    "save_once_wrapper",
    "shutter_wrapper",
    "tile_centers",
]
