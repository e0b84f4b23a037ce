"""The optical path behind the focus: energy, distances, pixels."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["HC_KEV_M", "Geometry", "Modality"]

HC_KEV_M = 12.398419843320026e-10
"""Planck's constant times the speed of light, in keV m (exact since 2019)."""

Modality = Literal["far-field", "near-field"]
"""Where the detector stands: in the Fraunhofer regime, or in that of Fresnel."""


class Geometry(BaseModel):
    """Energy, distances and pixels of a ptychographic set-up; everything in SI units but the energy in keV."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy_kev: float = Field(gt=0, le=1000)
    """Photon energy in keV."""

    distance_m: float = Field(gt=0, le=1000)
    """From the sample to the detector, in metres."""

    detector_pixel_m: float = Field(gt=0, le=0.01)
    """Side of a square detector pixel, in metres (after binning)."""

    modality: Modality = "far-field"
    """Far field (diffraction patterns are Fourier transforms) or near field (Fresnel, cone beam)."""

    focus_to_sample_m: float | None = Field(default=None, gt=0)
    """Near field: from the focus to the sample (often called z1), in metres; None for a parallel beam."""

    beam_center_px: tuple[float, float] | None = None
    """Where the direct beam meets the detector (row, column); None for the middle, ``(H // 2, W // 2)``."""

    @model_validator(mode="after")
    def _focus_only_in_near_field(self) -> Geometry:
        if self.modality == "far-field" and self.focus_to_sample_m is not None:
            raise ValueError("focus_to_sample_m belongs to the near field; give modality='near-field' or leave it out")
        return self

    @property
    def wavelength_m(self) -> float:
        """Wavelength in metres."""
        return HC_KEV_M / self.energy_kev

    @property
    def magnification(self) -> float:
        """Geometric magnification ``(z1 + z2) / z1`` of a cone beam; 1 for a parallel beam and in the far field."""
        z1 = self.focus_to_sample_m
        return 1.0 if z1 is None else (z1 + self.distance_m) / z1

    @property
    def effective_distance_m(self) -> float:
        """Distance of the equivalent parallel-beam experiment, ``z2 / magnification``, in metres."""
        return self.distance_m / self.magnification

    def pixel_size_m(self, frame_size: int) -> float:
        """Return the side of an object pixel in metres for square frames of `frame_size` pixels.

        Far field: ``wavelength * distance / (frame_size * detector_pixel)``; near field: the detector's pixel
        divided by the magnification.
        """
        if self.modality == "near-field":
            return self.detector_pixel_m / self.magnification
        return self.wavelength_m * self.distance_m / (frame_size * self.detector_pixel_m)
