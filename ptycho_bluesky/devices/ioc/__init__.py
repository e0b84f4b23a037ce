"""The simulated or replayed beamline as an EPICS IOC, on loopback: the same physics behind real process variables.

It needs the extra ``epics`` (caproto for Channel Access, p4p for PV Access). ``ptycho-bluesky ioc`` serves one.
"""

from ptycho_bluesky.devices.ioc._records import Record, Records
from ptycho_bluesky.devices.ioc._serve import PROTOCOLS, BeamlineIoc, serve_ioc

__all__ = ["PROTOCOLS", "BeamlineIoc", "Record", "Records", "serve_ioc"]
