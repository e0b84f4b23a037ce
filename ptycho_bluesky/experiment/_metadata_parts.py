"""Parts of the ``ptychography`` block: probe, pattern, source, beam and what was foretold of the scan."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["BeamInfo", "EstimateInfo", "PatternInfo", "ProbeInfo", "SourceInfo"]


class ProbeInfo(BaseModel):
    """What is known of the probe beforehand: optics to compute it from, or a file that holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["zone-plate", "kirkpatrick-baez", "disc", "file"]
    """Optics of the probe, or ``"file"``."""

    diameter_m: float | None = Field(default=None, gt=0)
    """Of the zone plate, or of the disc on the sample; the KB mirrors' aperture."""

    outermost_zone_m: float | None = Field(default=None, gt=0)
    """Width of the zone plate's outermost zone."""

    central_stop_m: float = Field(default=0.0, ge=0)
    """Diameter of the zone plate's central stop."""

    focal_length_m: float | None = Field(default=None, gt=0)
    """Of the KB mirrors (a zone plate's follows from its zones)."""

    defocus_m: float = 0.0
    """From the focus to the sample, positive downstream."""

    coherent_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the intensity in the strongest coherent mode."""

    modes: int = Field(default=1, ge=1, le=32)
    """Coherent modes to compute."""

    uri: str | None = None
    """``file://`` address of an .npy or .npz with the key ``probe`` (modes, H, W), for kind ``"file"``."""


class PatternInfo(BaseModel):
    """The scan pattern as planned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """One of :data:`PATTERNS`, or another where it cannot be made again from its parameters."""

    parameters: dict[str, Any] = Field(default_factory=dict)
    """From which :func:`pattern_named` makes the same positions; plain JSON values, SI units."""

    num_points: int = Field(ge=1)
    overlap: float | None = Field(default=None, ge=0, le=1)
    """Linear overlap of neighbouring probes; None where the probe's size is not known."""


class SourceInfo(BaseModel):
    """Where the photons come from: NXsource."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    """Of the facility and beamline."""

    probe: Literal["x-ray", "visible light", "electron"] = "x-ray"
    """What is scattered."""

    type: str = "Synchrotron X-ray Source"
    """As in NXsource, e.g. ``"Free-Electron Laser"``."""

    energy_gev: float | None = Field(default=None, gt=0)
    """Of the electrons in the ring, GeV; the photons' energy is in the geometry."""


class BeamInfo(BaseModel):
    """The beam that meets the sample: NXbeam."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flux_photons_s: float | None = Field(default=None, gt=0)
    """Photons per second on the sample, for dose."""

    extent_m: tuple[float, float] | None = None
    """Height and width of the beam where it enters the optics, metres."""

    divergence_rad: tuple[float, float] | None = None
    """Vertical and horizontal, radians."""

    energy_spread: float | None = Field(default=None, gt=0, lt=1)
    """Width of the spectrum divided by the energy."""


class EstimateInfo(BaseModel):
    """What the plan foretold before the start; None where something needed for it was not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float | None = None
    """Whole scan, seconds."""

    photons: float | None = None
    """That meet the sample, all frames together."""

    fluence_photons_m2: float | None = None
    """Photons per square metre of the scanned field."""

    dose_gy: float | None = None
    """Energy absorbed by the sample's mass, gray."""

    data_bytes: int | None = None
    """Of the frames, uncompressed."""
