"""What a scan needs, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.devices._axis import SimulatedAxis
from ptycho_bluesky.devices._flyer import SimulatedFlyer
from ptycho_bluesky.devices._replay import ReplayDetector
from ptycho_bluesky.devices._simulated import SimulatedDetector
from ptycho_bluesky.devices._source import SimulatedRing, SimulatedShutter
from ptycho_bluesky.devices._stage import SimulatedStage
from ptycho_bluesky.errors import ConfigurationError
from ptycho_bluesky.experiment import PtychoDataset, PtychographyMetadata, ScanPattern

__all__ = ["Beamline", "written"]

ComplexArray = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Beamline:
    """All that a scan needs, and for simulations the truth."""

    stage: SimulatedStage
    """Axes ``y``, ``x`` and ``rotation``."""

    detector: SimulatedDetector | ReplayDetector
    """Data keys ``detector_image`` and ``detector_total``."""

    metadata: PtychographyMetadata
    """What the beamline knows of the measurement, for ``ptycho_scan``."""

    pattern: ScanPattern
    """A scan that fits: for a replay, the recorded positions in their order."""

    flyer: SimulatedFlyer | None = None
    """Leads the stage and triggers the detector in fly scans."""

    energy: SimulatedAxis | None = None
    """Monochromator, keV, data key ``energy``; None for a replay."""

    shutter: SimulatedShutter | None = None
    """``"open"`` or ``"closed"``, data key ``shutter``; None for a replay."""

    ring: SimulatedRing | None = None
    """``ring.current`` (mA) for suspenders, data key ``ring_current``; None for a replay."""

    probe: ComplexArray | None = field(default=None, repr=False)
    """(M, H, W) the true probe, ``sum |probe|**2 = 1``; of a replay the recorded estimate, if any."""

    truth: ComplexArray | None = field(default=None, repr=False)
    """(Y, X) transmission of the simulated sample, its middle at position (0, 0); None for a replay."""

    dataset: PtychoDataset | None = field(default=None, repr=False)
    """What is played back; None for a simulation."""


def written(folder: Path | str | None, name: str, array: npt.NDArray[np.generic], what: str) -> str:
    """Save `array` as ``folder/name`` and return its ``file://`` address for the metadata.

    Raises
    ------
    ConfigurationError
        When there is no folder, or it cannot be written to.
    """
    if folder is None:
        raise ConfigurationError(f"folder is None, but {what} has to be written; give a folder that stays")
    path = Path(folder).resolve() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    except OSError as error:
        raise ConfigurationError(
            f"{what} cannot be written to {path}: {error.strerror}; give another folder"
        ) from error
    return path.as_uri()
