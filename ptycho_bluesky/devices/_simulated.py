"""A detector behind a simulated sample: each frame is computed from where the stage really is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Component

from ptycho_bluesky.devices._detector import FrameDetector
from ptycho_bluesky.devices._signals import PositiveSignal
from ptycho_bluesky.devices._source import Optics, Source
from ptycho_bluesky.devices._stage import SimulatedStage
from ptycho_bluesky.errors import DeviceError
from ptycho_bluesky.experiment import Orientation
from ptycho_bluesky.optics import DetectorModel, Propagator, diffraction, object_corners

__all__ = ["SimulatedDetector"]

FRAMES_PER_BATCH = 128
"""Frames of a flight that are computed at once."""


class SimulatedDetector(FrameDetector):
    """A photon-counting detector, its frames computed by diffraction of the probe at the sample.

    A frame has ``flux_photons_s * exposure_time`` photons before the sample, Poisson noise and the faults of
    `model`. The specimen is thin: a rotation does not change its frames.

    Parameters
    ----------
    stage:
        Where the sample is: its `true_position`, not its encoders.
    obj:
        (Y, X) complex64 transmission of the sample; its middle is at position (0, 0).
    probe:
        (M, H, W) complex64 modes, ``sum |probe|**2 = 1``.
    propagator:
        From the sample to the detector.
    pixel_size_m:
        Side of an object pixel, metres.
    flux_photons_s:
        Photons per second that reach the sample.
    model:
        Dead and hot pixels, gaps, saturation; None for an ideal detector.
    exposure_s:
        First value of the signal `exposure_time`, seconds.
    orientation:
        How the detector is mounted; frames are delivered as it sees them.
    axis_signs:
        -1 where the stage counts against the object's rows or columns.
    unit_m:
        Metres in one unit of the stage.
    speedup:
        How many times shorter than real an exposure lasts; the number of photons stays.
    folder:
        Where frames of fly scans go; None where it is not to fly.
    seed:
        Of the noise.
    """

    exposure_time = Component(PositiveSignal, value=0.05, units="s", kind="config")
    speedup = Component(PositiveSignal, value=1.0, kind="config")

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "detector",
        stage: SimulatedStage,
        obj: npt.NDArray[np.complex64],
        probe: npt.NDArray[np.complex64],
        propagator: Propagator,
        pixel_size_m: float,
        flux_photons_s: float,
        model: DetectorModel | None = None,
        exposure_s: float = 0.05,
        orientation: Orientation | None = None,
        axis_signs: tuple[int, int] = (1, 1),
        unit_m: float = 1e-6,
        speedup: float = 1.0,
        folder: Path | str | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.stage_device, self.flux_photons_s = stage, float(flux_photons_s)
        self._step_exposure_s: float | None = None
        self.source: Source | None = None
        """What gives the light; None for a steady beam of one energy."""
        self._optics = Optics(
            np.ascontiguousarray(probe, np.complex64), np.ascontiguousarray(obj, np.complex64), pixel_size_m
        )
        self._propagator, self._model, self._orientation = (
            propagator,
            model or DetectorModel(),
            orientation or Orientation(),
        )
        self._to_m = np.asarray(axis_signs, np.float64) * unit_m
        self.seed(seed)
        shape = (probe.shape[-2], probe.shape[-1])
        super().__init__(prefix, name=name, frame_shape=shape, dtype=self._model.dtype, **kwargs)
        self.folder = None if folder is None else Path(folder).resolve()
        self.exposure_time.put(float(exposure_s))
        self.speedup.put(float(speedup))

    def seed(self, seed: int) -> None:
        """Start the noise of single exposures anew; those of a flight have their own numbers."""
        self._random = np.random.default_rng(seed)

    def fly_exposure(self, seconds: float | None) -> None:
        """Make the exposure of a flight the one that is recorded; None brings that of steps back."""
        if self._step_exposure_s is None:
            self._step_exposure_s = float(self.exposure_time.get())
        self.exposure_time.put(self._step_exposure_s if seconds is None else seconds)
        if seconds is None:
            self._step_exposure_s = None

    def ends_at(self, began: float) -> float:
        """Return the end of an exposure that began at `began`."""
        return float(began + self.exposure_time.get() / self.speedup.get())

    def expose(self) -> npt.NDArray[Any]:
        """Return the frame (H, W) of the sample's true place, as the detector delivers it.

        Raises
        ------
        DeviceError
            When the probe is outside of the simulated sample.
        """
        here = np.asarray(self.stage_device.true_position())[None, None]
        return np.asarray(self._measure(here, float(self.exposure_time.get()), self._random)[0])

    def expose_along(self, places: npt.NDArray[np.float64], exposure_s: float, seed: int) -> npt.NDArray[Any]:
        """Return the frames (N, H, W) of `places` (N, S, 2), each the mean of S places, as the detector delivers them.

        Raises
        ------
        DeviceError
            When the probe is outside of the simulated sample.
        """
        rng = np.random.default_rng(seed)
        batches = range(0, len(places), FRAMES_PER_BATCH)
        return np.concatenate([self._measure(places[i : i + FRAMES_PER_BATCH], exposure_s, rng) for i in batches])

    def _measure(
        self, places: npt.NDArray[np.float64], exposure_s: float, rng: np.random.Generator
    ) -> npt.NDArray[Any]:
        if self.source is not None:
            self._optics = self.source.optics()
        intensity = 1.0 if self.source is None else self.source.intensity()
        corners = self._corners(places.reshape(-1, 2))
        if not ((corners >= 0) & (corners <= self._room)).all():
            raise DeviceError(self._outside())
        photons = diffraction(self._optics.probe, self._optics.obj, corners, self._propagator)
        photons *= np.float32(self.flux_photons_s * exposure_s * intensity)
        if places.shape[1] > 1:
            photons = photons.reshape(*places.shape[:2], *photons.shape[1:]).mean(axis=1)
        return self._model.measure(self._orientation.undo(photons), rng)

    @property
    def _room(self) -> npt.NDArray[np.int64]:
        return np.asarray(self._optics.obj.shape) - self._propagator.frame_size

    def _corners(self, here: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the (N, 2) corners of the patches, object pixels, for places (N, 2) in the stage's unit."""
        shape, pixel_m = self._optics.obj.shape, self._optics.pixel_size_m
        return object_corners(here * self._to_m, (shape[0], shape[1]), self._propagator.frame_size, pixel_m)

    def _outside(self) -> str:
        first = -self._corners(np.zeros((1, 2)))[0]
        pixel = self._optics.pixel_size_m / self._to_m
        ends = first * pixel, (first + self._room) * pixel
        low, high = np.minimum(*ends), np.maximum(*ends)
        y, x = self.stage_device.y, self.stage_device.x
        return (
            f"{self.name}: the probe is outside of the simulated sample, {y.name} = {y.position:.4g} {y.egu} and "
            f"{x.name} = {x.position:.4g} {x.egu}; allowed is {low[0]:.4g} to {high[0]:.4g} and {low[1]:.4g} to "
            f"{high[1]:.4g}: make the scan smaller, or the sample larger"
        )
