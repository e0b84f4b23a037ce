"""A zone-plate beamline with a sample, in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.devices._beamline import Beamline, written
from ptycho_bluesky.devices._flyer import SimulatedFlyer
from ptycho_bluesky.devices._motion import AxisErrors
from ptycho_bluesky.devices._simulated import SimulatedDetector
from ptycho_bluesky.devices._source import SimulatedRing, SimulatedShutter, Source, monochromator
from ptycho_bluesky.devices._stage import PIEZO_ERRORS, SimulatedStage
from ptycho_bluesky.errors import ConfigurationError, report
from ptycho_bluesky.experiment import Geometry, Orientation, ProbeInfo, PtychographyMetadata, ScanPattern, fermat
from ptycho_bluesky.optics import (
    DetectorModel,
    cells,
    integrated_circuit,
    probe_diameter_m,
    probe_from_info,
    propagator_for,
    random_foam,
    siemens_star,
)

__all__ = ["SPECIMENS", "simulated_beamline"]

ComplexArray = npt.NDArray[np.complex64]

SPECIMENS: dict[str, Callable[..., ComplexArray]] = {
    "cells": cells,
    "foam": random_foam,
    "integrated-circuit": integrated_circuit,
    "siemens-star": siemens_star,
}
"""Samples that :func:`simulated_beamline` knows by name."""

DESIGN = ProbeInfo(
    kind="zone-plate",
    diameter_m=180e-6,
    outermost_zone_m=50e-9,
    central_stop_m=60e-6,
    defocus_m=300e-6,
    modes=2,
    coherent_fraction=0.92,
)
"""The optics as the beamline believes them to be."""

TRUE_DEFOCUS_M = 318e-6
"""How far behind the focus the sample really is."""

GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=75e-6)
"""A field of 1.78 um in each frame: 13.9 nm an object pixel with frames of 128 pixels."""

ENERGIES_KEV = (8.0, 9.6)
"""Of the monochromator; the zone plate follows, so that the sample stays where it is behind the focus."""

VELOCITY_UM_S = 2000.0
"""Of y and x: a fast piezo stage."""


def simulated_beamline(
    specimen: str | ComplexArray = "siemens-star",
    *,
    frame_size: int = 128,
    photons_per_frame: float = 5e5,
    exposure_s: float = 0.05,
    overlap: float = 0.7,
    field_m: tuple[float, float] = (6e-6, 6e-6),
    folder: Path | str | None = None,
    detector_model: DetectorModel | None = None,
    orientation: Orientation | None = None,
    axis_signs: tuple[Literal[-1, 1], Literal[-1, 1]] = (1, 1),
    stage_errors: AxisErrors | None = PIEZO_ERRORS,
    speedup: float = 100.0,
    seed: int = 0,
) -> Beamline:
    """Return a zone-plate beamline at 8.8 keV with a sample, true to the physics and without any hardware.

    The sample stands 318 um behind the focus, where the probe has about 0.9 um across and two coherent modes. The
    metadata hold the design of the optics, which puts the sample at 300 um: a little wrong, as at a beamline.
    Monochromator, shutter and ring change what the detector sees; the metadata are those of 8.8 keV.

    Parameters
    ----------
    specimen:
        A name of :data:`SPECIMENS`, or an object (Y, X) complex64 that is large enough for the field.
    frame_size:
        Pixels along a side of a frame; the object's pixel is 1.78 um divided by it.
    photons_per_frame:
        That meet the sample in each exposure.
    exposure_s:
        Exposure of a frame, seconds.
    overlap:
        Linear overlap of neighbouring probes in the pattern.
    field_m:
        Height and width of the scanned field, metres.
    folder:
        Where ``mask.npy`` is written, for the metadata to refer to, and the files of fly scans (in ``fly``); needed
        for these, and where the detector has bad pixels.
    detector_model:
        None for the standard one: 0.1 % dead and 0.05 % hot pixels where there is a `folder`, else a perfect one.
    orientation, axis_signs:
        How the detector is mounted, and which way the stage counts; both are told by the metadata.
    stage_errors:
        Of y and x, micrometres; None for an ideal stage.
    speedup:
        How many times faster than real time moves and exposures are; 1 is real time, 1e6 waits for nothing.
    seed:
        Of sample, noise and stage.

    Raises
    ------
    ConfigurationError
        When the specimen is not known, a number is out of range, or the mask has nowhere to go.
    DatasetError
        When the optics do not fit the frames.
    """
    _check(overlap, photons_per_frame=photons_per_frame, exposure_s=exposure_s)
    truth_info = DESIGN.model_copy(update={"defocus_m": TRUE_DEFOCUS_M})

    def probe_at(energy_kev: float) -> tuple[ComplexArray, float]:
        geometry = GEOMETRY.model_copy(update={"energy_kev": energy_kev})
        return probe_from_info(truth_info, geometry, frame_size), geometry.pixel_size_m(frame_size)

    probe, pixel_m = probe_at(GEOMETRY.energy_kev)
    diameter = probe_diameter_m(probe_from_info(DESIGN, GEOMETRY, frame_size), pixel_m)
    pattern = _pattern(field_m, (1 - overlap) * diameter)
    obj = _specimen(specimen, pattern, frame_size, pixel_m, seed)
    model = detector_model
    if model is None:
        faults = {"dead_fraction": 1e-3, "hot_fraction": 5e-4} if folder is not None else {}
        model = DetectorModel(saturation=2**16 - 1, seed=seed, **faults)
    mask = model.mask((frame_size, frame_size))
    orientation = orientation or Orientation()
    room = (min(obj.shape) - frame_size) / 2 * pixel_m * 1e6
    stage = SimulatedStage(
        limits=(-room + 0.1, room - 0.1),
        errors=stage_errors,
        velocity=VELOCITY_UM_S,
        speedup=speedup,
        seed=seed,
    )
    files = None if folder is None else Path(folder) / "fly"
    detector = SimulatedDetector(
        stage=stage,
        obj=obj,
        probe=probe,
        propagator=propagator_for(GEOMETRY, "far-field", frame_size),
        pixel_size_m=pixel_m,
        flux_photons_s=photons_per_frame / exposure_s,
        model=model,
        exposure_s=exposure_s,
        orientation=orientation,
        axis_signs=axis_signs,
        speedup=speedup,
        folder=files,
        seed=seed,
    )
    energy = monochromator(GEOMETRY.energy_kev, ENERGIES_KEV, speedup)
    shutter, ring = SimulatedShutter(speedup=speedup), SimulatedRing()
    detector.source = Source(energy, shutter, ring, probe_at, obj)
    flyer = SimulatedFlyer(stage=stage, detectors=[detector], folder=files, speedup=speedup, seed=seed)
    metadata = PtychographyMetadata(
        frames_key=detector.image.name,
        position_keys=(stage.y.name, stage.x.name),
        position_unit="um",
        axis_signs=axis_signs,
        orientation=orientation,
        geometry=GEOMETRY,
        mask_uri=written(folder, "mask.npy", mask, "the mask of bad pixels") if mask.any() else None,
        saturation=model.saturation,
        exposure_s=exposure_s,
        probe=DESIGN,
        probe_diameter_m=diameter,
    )
    return Beamline(stage, detector, metadata, pattern, flyer, energy, shutter, ring, probe=probe, truth=obj)


def _check(overlap: float, **positive: float) -> None:
    faults = [f"{name} is {value}; it must be above 0" for name, value in positive.items() if not value > 0]
    if not 0 <= overlap < 1:
        faults.append(f"overlap is {overlap}; allowed is 0 to below 1, 0.65 to 0.75 reconstructs well")
    if faults:
        raise ConfigurationError(report("simulated beamline", faults))


def _pattern(field_m: tuple[float, float], neighbour_m: float) -> ScanPattern:
    """Return a Fermat spiral whose median distance between neighbours is `neighbour_m`."""
    first = fermat(*field_m, neighbour_m)
    return fermat(*field_m, neighbour_m * neighbour_m / (first.step_m() or neighbour_m))


def _specimen(
    specimen: str | ComplexArray, pattern: ScanPattern, frame_size: int, pixel_m: float, seed: int
) -> ComplexArray:
    """Return the object: as given, or large enough for the pattern and 0.5 um more on each side."""
    reach = 2 * np.abs(pattern.positions).max(axis=0) + 2 * 0.5e-6
    needed = np.ceil(reach / pixel_m).astype(int) + frame_size
    shape = (int(needed[0]), int(needed[1]))
    if not isinstance(specimen, str):
        if not np.iscomplexobj(specimen):
            raise ConfigurationError(
                f"the specimen is {np.asarray(specimen).dtype}; it must be a complex transmission: for a phase "
                "image in radians give np.exp(1j * phase)"
            )
        if specimen.ndim != 2 or (np.asarray(specimen.shape) < needed).any():
            raise ConfigurationError(
                f"the specimen has shape {specimen.shape}; the field needs (Y, X) of at least {shape} pixels of "
                f"{pixel_m * 1e9:.2f} nm: give a larger one, or a smaller field_m"
            )
        return np.asarray(specimen, np.complex64)
    if specimen not in SPECIMENS:
        known = ", ".join(sorted(SPECIMENS))
        raise ConfigurationError(f"specimen is {specimen!r}; allowed are {known}, or an array (Y, X) complex64")
    return SPECIMENS[specimen](shape, seed=seed)
