"""Predictors: a network made ready for one beam; frames in, patches out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._centre import CentreFinder
from ptycho_bluesky.inference._fitting import Fitting
from ptycho_bluesky.inference._protocol import Patches
from ptycho_bluesky.inference.backends import Engine, Made

__all__ = ["SLOPE", "PlainPredictor", "ProbePredictor", "checked_mask", "checked_probe", "trust"]

SLOPE = 0.5
"""Share of its mean phase slope that a patch keeps. A frame tells the slope by a shift of hundredths of a pixel, and
the errors add up from patch to patch to clouds in the mosaic; with none of it, what is wider than the beam is lost."""

DARK = 0.02
"""Share of the probe's highest intensity below which a patch is not trusted at all."""


def checked_probe(probe: npt.NDArray[np.complex64], frame_size: int) -> npt.NDArray[np.complex64]:
    """Return the probe, or raise where it is no (modes, frame_size, frame_size) with some light in it."""
    if probe.ndim != 3 or probe.shape[1:] != (frame_size, frame_size) or not len(probe):
        raise InferenceError(f"the probe has shape {probe.shape}; allowed is (modes, {frame_size}, {frame_size})")
    power = float((np.abs(probe).astype(np.float64) ** 2).sum())
    if not (np.isfinite(power) and power > 0):
        raise InferenceError(f"the probe's intensity sums to {power}; it must be finite and above 0")
    return np.asarray(probe, np.complex64)


def checked_mask(mask: npt.NDArray[np.bool_] | None, frame_size: int) -> npt.NDArray[np.bool_] | None:
    """Return the mask, or raise where it has not the shape of a frame."""
    if mask is not None and mask.shape != (frame_size, frame_size):
        raise InferenceError(f"the mask has shape {mask.shape}; allowed is ({frame_size}, {frame_size})")
    return None if mask is None else np.asarray(mask, bool)


def trust(probe: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    """Return the intensity (h, w) of a probe, 1 at the most, 0 where there is next to no light."""
    light = (np.abs(probe) ** 2).sum(axis=0)
    light /= light.max()
    return np.where(light < DARK, 0, light).astype(np.float32)


class _Level:
    """Takes part of their mean phase slope, under `share` (N, N), out of patches whose mean phase there is 0."""

    def __init__(self, share: npt.NDArray[np.float32], kept: float) -> None:
        n = len(share)
        x = np.arange(n, dtype=np.float32) - n // 2
        axes = np.stack(np.broadcast_arrays(x[:, None], x[None])).reshape(2, -1)
        share = (share / share.sum()).ravel()
        levers = share * axes - share * (share * axes).sum(axis=1, keepdims=True)
        self._find = np.ascontiguousarray((levers / (share * axes**2).sum(axis=1, keepdims=True)).T)
        self._take = np.asarray((1 - kept) * axes, np.float32)

    def __call__(self, phase: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the phases (B, N, N), radians."""
        flat = phase.reshape(len(phase), len(self._find))
        return _wrapped(flat - (flat @ self._find) @ self._take).reshape(phase.shape)


def _wrapped(phase: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    turns = np.float32(2 * np.pi)
    return np.asarray(phase - turns * np.rint(phase / turns), np.float32)


def _sized(frames: npt.NDArray[np.float32], fitting: Fitting) -> bool:
    """Tell whether frames are as the detector gives them (True) or already fitted; raise where they are neither."""
    if frames.ndim != 3 or frames.shape[1:] not in [(n, n) for n in (fitting.given, fitting.wanted)]:
        raise InferenceError(
            f"frames have shape {frames.shape}; this predictor was made for (B, {fitting.given}, {fitting.given}), "
            f"or (B, {fitting.wanted}, {fitting.wanted}) where they are fitted already"
        )
    return bool(frames.shape[1] == fitting.given)


def _run(engine: Engine, fitted: npt.NDArray[np.float32]) -> Made:
    """Return what an engine makes of frames (B, N, N); of none, nothing, which runtimes do not take."""
    if len(fitted):
        return engine(fitted)
    phase, amplitude, misfit = engine(np.zeros((1, *fitted.shape[1:]), np.float32))
    return Made(phase[:0], None if amplitude is None else amplitude[:0], None if misfit is None else misfit[:0])


class ProbePredictor:
    """Frames to patches with ProbeViT and one probe; where the beam's centre lies is found from the frames.

    Parameters
    ----------
    engine:
        The network.
    fitting:
        From the detector's frames to the network's.
    probe, good:
        (modes, N, N) and (N, N) as the network is given them.
    slope:
        Share of its mean phase slope that a patch keeps.
    """

    def __init__(
        self,
        engine: Engine,
        fitting: Fitting,
        probe: npt.NDArray[np.complex64],
        good: npt.NDArray[np.bool_],
        slope: float = SLOPE,
    ) -> None:
        self.engine, self.fitting = engine, fitting
        self._probe, self._good = probe, good
        self._weight = trust(probe)
        self._level = _Level(self._weight, slope)
        self.reset_centre()

    def reset_centre(self) -> None:
        """Forget where the beam's centre was found to be."""
        self._centre = CentreFinder(self.fitting, self._probe, self._good)

    @property
    def centre_shift(self) -> tuple[int, int]:
        """Rows and columns, detector pixels, by which the beam was found to be off the frames' centre."""
        return self._centre.shift

    def __call__(self, frames: npt.NDArray[np.float32], /) -> Patches:
        """Return the patches of `frames` (B, H, W), or (B, N, N) where they are fitted and moved back by the shift.

        A frame without a count gives phase 0 and amplitude 0.
        """
        if _sized(frames, self.fitting):
            fitted = self._centre(frames)
        else:
            fitted = np.ascontiguousarray(frames, np.float32)
            self._centre.look(fitted)
        phase, amplitude, misfit = _run(self.engine, fitted)
        return Patches(self._level(phase), amplitude, self._weight, self.fitting.scale, self.fitting.offset, misfit)


class PlainPredictor:
    """Frames to patches with a network that does not know the probe.

    Parameters
    ----------
    engine:
        The network.
    fitting:
        From the detector's frames to the network's.
    weight:
        (N, N) of the patches' pixels.
    """

    def __init__(self, engine: Engine, fitting: Fitting, weight: npt.NDArray[np.float32]) -> None:
        self.engine, self.fitting, self._weight = engine, fitting, weight

    def __call__(self, frames: npt.NDArray[np.float32], /) -> Patches:
        """Return the patches of `frames` (B, H, W), or (B, N, N) where they are fitted already."""
        whole = _sized(frames, self.fitting)
        fitted = self.fitting.frames(frames) if whole else np.ascontiguousarray(frames, np.float32)
        phase, amplitude, misfit = _run(self.engine, fitted)
        return Patches(phase, amplitude, self._weight, self.fitting.scale, self.fitting.offset, misfit)
