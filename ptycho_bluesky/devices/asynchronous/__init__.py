"""Simulated and replayed devices as ophyd-async has them; names, physics and metadata are those of the classic ones.

ophyd-async is asked for below 0.22, whose detectors have another interface.
"""

from ptycho_bluesky.devices.asynchronous._beamline import AsyncBeamline, asynchronous_beamline
from ptycho_bluesky.devices.asynchronous._detector import AsyncDetector
from ptycho_bluesky.devices.asynchronous._stage import AsyncAxis, AsyncStage

__all__ = ["AsyncAxis", "AsyncBeamline", "AsyncDetector", "AsyncStage", "asynchronous_beamline"]
