"""The beamline by EPICS: takes the place of startup/10-beamline.py. Correct prefixes, folder, geometry and optics."""

import ophyd

ophyd.set_cl("caproto")  # or "pyepics", where that is installed

from ptycho_bluesky.devices.epics import EpicsDetector, EpicsStage, connect_devices
from ptycho_bluesky.experiment import Geometry, ProbeInfo, PtychographyMetadata

stage = EpicsStage("PREFIX", name="stage", y="m1", x="m2", rotation="m3")
detector = EpicsDetector("PREFIXdet1:", name="detector", folder="/data")  # where the detector's file plugin writes
connect_devices(stage, detector)  # names every process variable that does not answer

metadata = PtychographyMetadata(
    frames_key="detector_image",
    position_keys=("stage_y", "stage_x"),
    position_unit="um",
    geometry=Geometry(energy_kev=8.8, distance_m=2.0, detector_pixel_m=75e-6),
    probe=ProbeInfo(kind="zone-plate", diameter_m=180e-6, outermost_zone_m=50e-9, defocus_m=300e-6),
)
