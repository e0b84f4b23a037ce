"""The ``ptychography`` block of a run's start document: all that a reader needs to rebuild the dataset."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.experiment._geometry import Geometry
from ptycho_bluesky.experiment._metadata_parts import BeamInfo, EstimateInfo, PatternInfo, ProbeInfo, SourceInfo
from ptycho_bluesky.experiment._orientation import Orientation

__all__ = ["POSITION_UNITS_M", "PtychographyMetadata"]

POSITION_UNITS_M = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9}
"""Metres in one unit of the position devices. ``"px"`` (object pixels) has no length."""

PositionUnit = Literal["m", "mm", "um", "nm", "px"]


class PtychographyMetadata(BaseModel):
    """Everything beyond the frames and positions themselves. Unknown keys are refused; units are in the names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1, 2] = 2
    """Of this block's layout; 2 is 1 with more keys, all of them optional."""

    frames_key: str
    """Data key of the diffraction patterns in the stream `frames_stream`."""

    position_keys: tuple[str, str]
    """Data keys of the positions: (row, column) = (y, x)."""

    frames_stream: str = "primary"
    """Event stream of the frames."""

    frames_per_event: int = Field(default=1, ge=1)
    """Frames, and positions, in each event: more than 1 where an event is a row of a fly scan."""

    positions_stream: str | None = None
    """Event stream of the positions; None for that of the frames. From another one they are taken by time."""

    position_unit: PositionUnit = "um"
    """Unit of those two keys; ``"px"`` = object pixels, where no geometry is known."""

    axis_signs: tuple[Literal[-1, 1], Literal[-1, 1]] = (1, 1)
    """-1 where the position device counts against the row or column axis of the object array."""

    position_offset_m: tuple[float, float] = (0.0, 0.0)
    """Added to the positions (row, column) when the dataset is loaded, metres (or object pixels): where a tile lies
    whose fine stage counts from its middle."""

    position_source: Literal["encoder", "readback", "setpoint"] | None = None
    """What the position keys tell; None where not known."""

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

    sample_mass_attenuation_m2_kg: float | None = Field(default=None, gt=0)
    """Mass energy-absorption coefficient of the sample at this energy, m2/kg; for dose."""

    dark_uid: str | None = None
    """Run that holds the dark frames."""

    flat_uid: str | None = None
    """Run that holds the flat field."""

    monitor_key: str | None = None
    """Data key of the incident intensity, one number a frame: NXmonitor."""

    detector_name: str | None = None
    """Of the make and model: NXdetector/description."""

    rotation_deg: float = 0.0
    """Rotation of the sample, degrees."""

    exposure_s: float | None = Field(default=None, gt=0)
    """Exposure of a frame, seconds."""

    period_s: float | None = Field(default=None, gt=0)
    """From the begin of a frame to that of the next in a fly scan, seconds; None for a step scan."""

    source: SourceInfo | None = None
    """Facility and ring."""

    beam: BeamInfo | None = None
    """Flux, spectrum and divergence."""

    probe: ProbeInfo | None = None
    """What is known of the probe."""

    probe_diameter_m: float | None = Field(default=None, gt=0)
    """Full width of the probe on the sample, for overlap and dose."""

    pattern: PatternInfo | None = None
    """The pattern as planned; filled by the plan."""

    estimate: EstimateInfo | None = None
    """What was foretold of the scan; filled by the plan."""

    continues: str | None = None
    """Uid of the run of which this one measures the missing positions."""

    first_point: int = Field(default=0, ge=0)
    """Index in `pattern` of this run's first position; above 0 where it continues another."""

    campaign: dict[str, int | float | str] = Field(default_factory=dict)
    """Ties runs together: ``uid`` of the campaign, ``axis`` (e.g. ``rotation_deg``), ``index``, ``value`` on that axis,
    ``count`` of runs; other keys are the user's."""

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

    def unknown(self) -> list[str]:
        """Return in plain words what a good reconstruction, an archive or the next reader would like to know."""
        geometry, beam, source = self.geometry, self.beam or BeamInfo(), self.source
        center = None if geometry is None else geometry.beam_center_px
        wishes = {
            "probe: with its optics or a file the reconstruction starts from the right probe": self.probe,
            "probe_diameter_m: for overlap and dose": self.probe_diameter_m,
            "exposure_s: for counts per second and dose": self.exposure_s,
            "geometry.beam_center_px: the frame's middle is taken": center,
            "mask_uri: bad pixels count as measured": self.mask_uri,
            "saturation: saturated pixels count as measured": self.saturation,
            "position_source: encoder, readback or setpoint": self.position_source,
            "beam.flux_photons_s: for dose": beam.flux_photons_s,
            "beam.energy_spread: NXbeam asks for it": beam.energy_spread,
            "source.name: NXsource asks for it": source.name if source is not None and source.name else None,
            "detector_name: NXdetector asks for it": self.detector_name,
        }
        if self.position_unit == "px":
            wishes["geometry: without it the object has no lengths"] = None
            wishes.pop("geometry.beam_center_px: the frame's middle is taken")
        return [text for text, value in wishes.items() if value is None]

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
                "measure with it, or tell what its keys mean by a mapping "
                f"(ptycho-bluesky validate {uid} --amend mapping.toml)"
            )
        try:
            return cls.model_validate(start["ptychography"])
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
            raise DatasetError(report(f"'ptychography' block of run {uid}", faults)) from None

    def to_start(self) -> dict[str, Any]:
        """Return the block as JSON values, for the key ``ptychography`` of a start document."""
        return self.model_dump(mode="json")
