"""ophyd devices without hardware: a simulated beamline, and measurements played back.

Data keys: ``stage_y``, ``stage_x``, ``stage_rotation`` (encoders), ``stage_y_setpoint`` ..., ``detector_image``
((H, W), inline in events) and ``detector_total``.
"""

from ptycho_bluesky.devices._alarm import Alarm
from ptycho_bluesky.devices._axis import SimulatedAxis
from ptycho_bluesky.devices._beamline import Beamline
from ptycho_bluesky.devices._detector import FrameDetector
from ptycho_bluesky.devices._flyer import SimulatedFlyer
from ptycho_bluesky.devices._motion import AxisErrors
from ptycho_bluesky.devices._replay import ReplayDetector, ReplayStage
from ptycho_bluesky.devices._replay_beamline import replay_beamline
from ptycho_bluesky.devices._simulated import SimulatedDetector
from ptycho_bluesky.devices._simulated_beamline import SPECIMENS, simulated_beamline
from ptycho_bluesky.devices._source import SimulatedRing, SimulatedShutter, monochromator
from ptycho_bluesky.devices._stage import PIEZO_ERRORS, SimulatedStage
from ptycho_bluesky.devices._stream_file import StreamDataset, StreamFile

__all__ = [
    "PIEZO_ERRORS",
    "SPECIMENS",
    "Alarm",
    "AxisErrors",
    "Beamline",
    "FrameDetector",
    "ReplayDetector",
    "ReplayStage",
    "SimulatedAxis",
    "SimulatedDetector",
    "SimulatedFlyer",
    "SimulatedRing",
    "SimulatedShutter",
    "SimulatedStage",
    "StreamDataset",
    "StreamFile",
    "monochromator",
    "replay_beamline",
    "simulated_beamline",
]
