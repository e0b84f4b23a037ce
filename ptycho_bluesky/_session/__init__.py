"""A beamline at work in three lines: ``from ptycho_bluesky import session; s = session(); s.scan()``."""

from ptycho_bluesky._session._beamline import BeamlineFile, Devices
from ptycho_bluesky._session._running import Running
from ptycho_bluesky._session._session import Session, session

__all__ = ["BeamlineFile", "Devices", "Running", "Session", "session"]
