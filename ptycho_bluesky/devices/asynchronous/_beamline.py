"""A beamline of asynchronous devices, in one call."""

from __future__ import annotations

from dataclasses import dataclass

from ptycho_bluesky.devices._beamline import Beamline
from ptycho_bluesky.devices._flyer import SimulatedFlyer
from ptycho_bluesky.devices.asynchronous._detector import AsyncDetector
from ptycho_bluesky.devices.asynchronous._stage import AsyncStage
from ptycho_bluesky.experiment import PtychographyMetadata, ScanPattern

__all__ = ["AsyncBeamline", "asynchronous_beamline"]


@dataclass(frozen=True)
class AsyncBeamline:
    """What a scan needs, asynchronous; metadata and pattern are those of the classic beamline."""

    stage: AsyncStage
    """Axes ``y``, ``x`` and ``rotation``."""

    detector: AsyncDetector
    """Data key ``detector_image``."""

    flyer: SimulatedFlyer
    """Leads the stage and triggers the detector in fly scans."""

    metadata: PtychographyMetadata
    """For the plans."""

    pattern: ScanPattern
    """A scan that fits."""


def asynchronous_beamline(beamline: Beamline) -> AsyncBeamline:
    """Return the same beamline with asynchronous stage and detector; it needs a folder, as all frames go to files.

    The classic devices are still there behind them: use one kind at a time.
    """
    stage, detector, classic = AsyncStage(beamline.stage), AsyncDetector(beamline.detector), beamline.flyer
    flyer = SimulatedFlyer(
        name="flyer" if classic is None else classic.name,
        stage=beamline.stage,
        detectors=[detector],
        folder=beamline.detector.folder,
        samples=3 if classic is None else classic.samples.get(),
        max_rate_hz=1e4 if classic is None else classic.max_rate.get(),
        speedup=1.0 if classic is None else classic.speedup.get(),
        seed=0 if classic is None else classic.seed,
    )
    return AsyncBeamline(stage, detector, flyer, beamline.metadata, beamline.pattern)
