"""The beamline: here the simulated one. A real one makes its own stage, detector and metadata instead."""

from ptycho_bluesky.config import settings
from ptycho_bluesky.devices import simulated_beamline

beamline = simulated_beamline("siemens-star", folder=settings().home / "beamlines" / "profile")
stage, detector = beamline.stage, beamline.detector
metadata, pattern = beamline.metadata, beamline.pattern
