"""A beamline that plays a measurement back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ptycho_bluesky.devices._beamline import Beamline, written
from ptycho_bluesky.devices._flyer import SimulatedFlyer
from ptycho_bluesky.devices._replay import FASTEST_HZ, ReplayDetector, ReplayStage, unit_of
from ptycho_bluesky.experiment import ProbeInfo, PtychoDataset, PtychographyMetadata, from_positions
from ptycho_bluesky.optics import probe_diameter_m

__all__ = ["replay_beamline"]


def replay_beamline(
    dataset: PtychoDataset,
    *,
    folder: Path | str | None = None,
    rate_hz: float | Literal["recorded"] = FASTEST_HZ,
    speedup: float = 1e6,
) -> Beamline:
    """Return a beamline that plays `dataset` back, as if it were measured now.

    Parameters
    ----------
    dataset:
        Far or near field, in metres or in pixels; its frames stay where they are and are read one by one.
    folder:
        Where ``probe.npy`` and ``mask.npy`` are written, for the metadata to refer to, and the files of fly scans (in
        ``fly``); needed for these, and where the dataset has a probe or a mask.
    rate_hz:
        Frames per second; 1e6 is as fast as possible, ``"recorded"`` the recorded pace.
    speedup:
        Of the stage, see :class:`SimulatedStage`; 1e6 moves at once.

    Raises
    ------
    ConfigurationError
        When there is a probe or a mask and no folder.
    DatasetError
        When the dataset is faulty.
    """
    stage = ReplayStage(dataset=dataset.validate(), speedup=speedup)
    files = None if folder is None else Path(folder) / "fly"
    detector = ReplayDetector(dataset=dataset, stage=stage, rate_hz=rate_hz, folder=files)
    flyer = SimulatedFlyer(stage=stage, detectors=[detector], folder=files, samples=1, max_rate_hz=FASTEST_HZ)
    unit, length = unit_of(dataset)
    probe, in_metres = dataset.probe, unit != "px"
    known, diameter = None, None
    if probe is not None:
        known = ProbeInfo(kind="file", modes=len(probe), uri=written(folder, "probe.npy", probe, "the probe"))
        if in_metres and dataset.pixel_size_m is not None:
            diameter = probe_diameter_m(probe, dataset.pixel_size_m)
    mask = None if dataset.mask is None else written(folder, "mask.npy", dataset.mask, "the mask")
    metadata = PtychographyMetadata(
        frames_key=detector.image.name,
        position_keys=(stage.y.name, stage.x.name),
        position_unit="um" if in_metres else "px",
        geometry=dataset.geometry if in_metres else None,
        mask_uri=mask,
        rotation_deg=dataset.rotation_deg,
        probe=known,
        probe_diameter_m=diameter,
    )
    pixels = dataset.positions if in_metres else dataset.positions / length
    return Beamline(stage, detector, metadata, from_positions(pixels, "recorded"), flyer, probe=probe, dataset=dataset)
