"""What may be wrong with a measurement: orientation and signs, units, energy, centre, found from some frames."""

from ptycho_bluesky.reconstruction.diagnosis._orientation import OrientationReport, PositionAxes, detect_orientation

__all__ = ["OrientationReport", "PositionAxes", "detect_orientation"]
