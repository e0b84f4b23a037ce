"""Beamline devices by EPICS, named as the simulated ones: the same plans, the same data keys, the same metadata.

Classic ophyd by Channel Access (:class:`EpicsStage`, :class:`EpicsDetector`, :class:`EpicsEiger`); ophyd-async by
either protocol (:class:`AsyncEpicsStage` ...), with the prefix ``ca://`` or ``pva://``. They need the extra ``epics``.
"""

from ptycho_bluesky.devices.epics._async_detector import AsyncEpicsDetector, AsyncEpicsEiger
from ptycho_bluesky.devices.epics._async_stage import AsyncEpicsAxis, AsyncEpicsStage
from ptycho_bluesky.devices.epics._client import connect_devices
from ptycho_bluesky.devices.epics._detector import EpicsDetector, EpicsEiger
from ptycho_bluesky.devices.epics._stage import EpicsAxis, EpicsStage

__all__ = [
    "AsyncEpicsAxis",
    "AsyncEpicsDetector",
    "AsyncEpicsEiger",
    "AsyncEpicsStage",
    "EpicsAxis",
    "EpicsDetector",
    "EpicsEiger",
    "EpicsStage",
    "connect_devices",
]
