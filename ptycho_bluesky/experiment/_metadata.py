"""The ``ptychography`` block of a run's start document: all that a reader needs to rebuild the dataset."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.experiment._geometry import Geometry
from ptycho_bluesky.experiment._orientation import Orientation

__all__ = ["POSITION_UNITS_M", "PatternInfo", "ProbeInfo", "PtychographyMetadata"]

POSITION_UNITS_M = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9}
"""Metres in one unit of the position devices. ``"px"`` (object pixels) has no length."""

PositionUnit = Literal["m", "mm", "um", "nm", "px"]


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
    parameters: dict[str, float | int | bool] = Field(default_factory=dict)
    num_points: int = Field(ge=1)
    overlap: float | None = Field(default=None, ge=0, le=1)
    """Linear overlap of neighbouring probes; None where the probe's size is not known."""


class PtychographyMetadata(BaseModel):
    """Everything beyond the frames and positions themselves. Unknown keys are refused; units are in the names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    """Of this block's layout."""

    frames_key: str
    """Data key of the diffraction patterns in the run's ``primary`` stream."""

    position_keys: tuple[str, str]
    """Data keys of the positions: (row, column) = (y, x)."""

    position_unit: PositionUnit = "um"
    """Unit of those two keys; ``"px"`` = object pixels, where no geometry is known."""

    axis_signs: tuple[Literal[-1, 1], Literal[-1, 1]] = (1, 1)
    """-1 where the position device counts against the row or column axis of the object array."""

    orientation: Orientation = Orientation()
    """How the detector is mounted; applied when the dataset is loaded."""

    zero_frequency: Literal["center", "corner"] = "center"
    """Where the detector's far field has its zero frequency."""

    geometry: Geometry | None = None
    """Energy, distances, pixels. None only with ``position_unit="px"``."""

    mask_uri: str | None = None
    """``file://`` address of an .npy (H, W) mask as the detector delivers frames, True = bad."""

    saturation: float | None = Field(default=None, gt=0)
    """Count from which on a pixel is saturated, and is treated as bad."""

    rotation_deg: float = 0.0
    """Rotation of the sample, degrees."""

    exposure_s: float | None = Field(default=None, gt=0)
    """Exposure of a frame, seconds."""

    probe: ProbeInfo | None = None
    """What is known of the probe."""

    probe_diameter_m: float | None = Field(default=None, gt=0)
    """Full width of the probe on the sample, for overlap and dose."""

    pattern: PatternInfo | None = None
    """The pattern as planned; filled by the plan."""

    campaign: dict[str, int | float | str] = Field(default_factory=dict)
    """Ties runs together: e.g. ``{"id": "...", "view": 3, "energy": 0, "time": 12}``."""

    def missing(self) -> list[str]:
        """Return in plain words what a reconstruction will want and this block lacks."""
        faults = []
        if self.geometry is None and self.position_unit != "px":
            faults.append(
                f"geometry is missing (energy_kev, distance_m, detector_pixel_m) but positions are in "
                f"{self.position_unit}: give it, or set position_unit='px'"
            )
        if self.geometry is not None and self.position_unit == "px":
            faults.append("position_unit is 'px' although the geometry is known; give m, mm, um or nm")
        if self.probe is not None and self.probe.kind == "file" and self.probe.uri is None:
            faults.append("probe.kind is 'file' but probe.uri is missing")
        if self.probe is not None and self.probe.kind != "file" and self.geometry is None:
            faults.append(f"probe.kind is {self.probe.kind!r}, which needs a geometry to be computed from")
        return faults

    @classmethod
    def from_start(cls, start: dict[str, Any]) -> PtychographyMetadata:
        """Return the block of a start document.

        Raises
        ------
        DatasetError
            When the run has no such block, or one that cannot be understood; the text names every key at fault.
        """
        uid = str(start.get("uid", "?"))[:8]
        if "ptychography" not in start:
            raise DatasetError(
                f"run {uid} has no 'ptychography' block in its start document: it was not made by ptycho_scan; "
                "measure with it, or add the block (see PtychographyMetadata) to the run's metadata"
            )
        try:
            return cls.model_validate(start["ptychography"])
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
            raise DatasetError(report(f"'ptychography' block of run {uid}", faults)) from None

    def to_start(self) -> dict[str, Any]:
        """Return the block as JSON values, for the key ``ptychography`` of a start document."""
        return self.model_dump(mode="json")
