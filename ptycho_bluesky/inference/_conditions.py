"""What is known of one beamline, for training frames that are made as it makes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import InferenceError, report
from ptycho_bluesky.experiment import PtychoDataset

__all__ = ["PHASE_RAD", "PHOTONS", "RECONSTRUCTED_ERROR", "Conditions"]

PHOTONS = (1e4, 3e6)
"""Photons in a frame where nothing is known of them."""

PHASE_RAD = (0.2, 1.6)
"""Phase shift of specimens of which nothing is known, radians."""

DESIGN_ERROR = 1.0
RECONSTRUCTED_ERROR = 0.2
LOOKED_AT = 256
"""Frames from which the dose is taken."""


@dataclass(frozen=True)
class Conditions:
    """The light, the detector and the stage of a beamline, in its own pixels.

    Raises
    ------
    InferenceError
        When the probe has no light or another shape, the mask is not of its size, or a number is out of its range.
    """

    probe: npt.NDArray[np.complex64] = field(repr=False)
    """(modes, H, H), strongest mode first; its scale does not matter."""

    photons: tuple[float, float] = PHOTONS
    """Counts of a frame, the least and the most; half of all frames lie in between, the others reach from a sixteenth
    of the least to four times the most."""

    mask: npt.NDArray[np.bool_] | None = field(default=None, repr=False)
    """(H, H) True = bad pixel, in every frame; None: faults are drawn at random."""

    background: float = 0.0
    """Mean counts of a pixel that are no diffraction."""

    jitter_px: float = 0.2
    """How far the beam moves on the detector from frame to frame, rms, pixels."""

    blur_px: float = 0.0
    """How far the sample moves while a frame is taken (fly scan), at most, object pixels."""

    phase_rad: tuple[float, float] = PHASE_RAD
    """Phase shift of the thickest part of a specimen, the least and the most, radians."""

    probe_error: float = DESIGN_ERROR
    """How unlike `probe` the light may be: 1 as a design is (some per cent of defocus), 0 not at all."""

    def __post_init__(self) -> None:
        faults = []
        if self.probe.ndim != 3 or self.probe.shape[1] != self.probe.shape[2]:
            faults.append(f"probe has shape {self.probe.shape}; allowed is (modes, H, H)")
        elif not 0 < float((np.abs(self.probe).astype(np.float64) ** 2).sum()) < np.inf:
            faults.append("the probe has no light, or is not finite")
        if not 0 < self.photons[0] <= self.photons[1] < 1e12:
            faults.append(f"photons is {self.photons}; allowed is 0 < least <= most < 1e12")
        if self.mask is not None and self.mask.shape != self.probe.shape[1:]:
            faults.append(f"mask has shape {self.mask.shape}; it must be that of the probe, {self.probe.shape[1:]}")
        if not 0 <= self.phase_rad[0] <= self.phase_rad[1] <= 20:
            faults.append(f"phase_rad is {self.phase_rad}; allowed is 0 <= least <= most <= 20")
        for name in ("background", "jitter_px", "blur_px", "probe_error"):
            if not 0 <= getattr(self, name) < 1e6:
                faults.append(f"{name} is {getattr(self, name)}; it must be 0 or more, finite")
        if faults:
            raise InferenceError(report("conditions of a beamline", faults))

    @classmethod
    def of(
        cls,
        probe: npt.NDArray[np.complex64],
        dataset: PtychoDataset | None = None,
        *,
        reconstructed: bool = True,
        contrast_rad: float | None = None,
        blur_px: float = 0.0,
    ) -> Conditions:
        """Return the conditions of a beamline whose probe is known.

        Parameters
        ----------
        probe:
            (modes, H, H); where it is in photons (a reconstruction's is), it gives the dose.
        dataset:
            Frames of the beamline, for dose and mask; no reconstruction of them is looked at.
        reconstructed:
            The probe was reconstructed, and so is nearly right; False: a design.
        contrast_rad:
            Phase contrast of samples there, as a first reconstruction tells (``phase_contrast_rad``); specimens then
            have between a third of it and half as much again.
        blur_px:
            Motion during an exposure, object pixels.

        Raises
        ------
        InferenceError
            When the probe does not fit the frames, or these are empty.
        """
        dose = float((np.abs(probe).astype(np.float64) ** 2).sum())
        photons = (dose / 2, dose * 2) if dose > 100 else PHOTONS  # less is no number of photons
        if dataset is not None:
            if dataset.frame_shape != probe.shape[1:]:
                raise InferenceError(
                    f"frames are {dataset.frame_shape} pixels, the probe is {probe.shape[1:]}; give the probe that was "
                    "reconstructed from such frames"
                )
            step = max(1, len(dataset) // LOOKED_AT)
            good = True if dataset.mask is None else ~dataset.mask
            seen = [float(np.where(good, dataset.frames[k : k + 1], 0).sum()) for k in range(0, len(dataset), step)]
            photons = (float(np.percentile(seen, 2)), float(np.percentile(seen, 98)))
        return cls(
            probe=probe,
            photons=photons,
            mask=None if dataset is None else dataset.mask,
            blur_px=blur_px,
            phase_rad=PHASE_RAD if contrast_rad is None else (contrast_rad / 3, contrast_rad * 1.5),
            probe_error=RECONSTRUCTED_ERROR if reconstructed else DESIGN_ERROR,
        )

    @property
    def given(self) -> int:
        """Side H of the beamline's frames, pixels."""
        return int(self.probe.shape[-1])

    def to_json(self) -> dict[str, Any]:
        """Return everything but the arrays, and hashes of these, as JSON values."""
        return {
            "probe": hashlib.sha256(np.ascontiguousarray(self.probe).tobytes()).hexdigest(),
            "modes": len(self.probe),
            "photons": [round(v, 1) for v in self.photons],
            "bad_pixels": None if self.mask is None else int(self.mask.sum()),
            "mask": None if self.mask is None else hashlib.sha256(np.packbits(self.mask).tobytes()).hexdigest(),
            "background": self.background,
            "jitter_px": self.jitter_px,
            "blur_px": self.blur_px,
            "phase_rad": list(self.phase_rad),
            "probe_error": self.probe_error,
        }
