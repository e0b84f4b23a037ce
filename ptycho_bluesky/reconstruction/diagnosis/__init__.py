"""What may be wrong with a measurement: orientation and signs, units, energy, centre, found from some frames."""

from ptycho_bluesky.reconstruction.diagnosis._check import (
    CheckReport,
    check_dataset,
    explain_bad_fit,
    refuse_if_turned,
    refuse_if_wrong,
)
from ptycho_bluesky.reconstruction.diagnosis._finding import DatasetFinding
from ptycho_bluesky.reconstruction.diagnosis._limits import FitLimits, fit_limits
from ptycho_bluesky.reconstruction.diagnosis._orientation import OrientationReport, PositionAxes, detect_orientation
from ptycho_bluesky.reconstruction.diagnosis._scale import PositionScale, position_scale

__all__ = [
    "CheckReport",
    "DatasetFinding",
    "FitLimits",
    "OrientationReport",
    "PositionAxes",
    "PositionScale",
    "check_dataset",
    "detect_orientation",
    "explain_bad_fit",
    "fit_limits",
    "position_scale",
    "refuse_if_turned",
    "refuse_if_wrong",
]
