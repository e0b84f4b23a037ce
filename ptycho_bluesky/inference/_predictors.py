"""Predictors: a network made ready for one beam; frames in, patches out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._centre import CentreFinder
from ptycho_bluesky.inference._fitting import Fitting
from ptycho_bluesky.inference._protocol import Patches
from ptycho_bluesky.inference._ptychonn import PtychoNN, PtychoNNPhase
from ptycho_bluesky.inference._vit import ProbeViT

__all__ = ["PlainPredictor", "ProbePredictor", "checked_mask", "checked_probe", "trust"]

CHUNK = 16
"""Frames at once on a CPU: the activations of more leave its cache, and the rate falls."""

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


def _check(frames: npt.NDArray[np.float32], fitting: Fitting) -> None:
    if frames.ndim != 3 or frames.shape[1:] != (fitting.given, fitting.given):
        raise InferenceError(
            f"frames have shape {frames.shape}; this predictor was made for (B, {fitting.given}, {fitting.given})"
        )


def _levelled(patches: Tensor, share: Tensor) -> Tensor:
    """Return patches (B, N, N) with :data:`SLOPE` of their mean phase slope under `share` (N, N), whose sum is 1."""
    n = patches.shape[-1]
    x = torch.arange(n) - n // 2
    phase = torch.angle(patches * (share * patches).sum((1, 2), keepdim=True).conj())
    rows, columns = phase * share * x[:, None], phase * share * x
    down, right = (
        (part - share * axis * (share * phase).sum((1, 2), keepdim=True)).sum((1, 2)) / (share * axis**2).sum()
        for part, axis in ((rows, x[:, None]), (columns, x[None]))
    )
    ramp = down[:, None, None] * x[:, None] + right[:, None, None] * x
    return patches * torch.polar(torch.ones_like(ramp), -(1 - SLOPE) * ramp)


class ProbePredictor:
    """Frames to patches with ProbeViT and one probe; where the beam's centre lies is found from the frames."""

    def __init__(
        self,
        network: ProbeViT,
        fitting: Fitting,
        probe: npt.NDArray[np.complex64],
        good: npt.NDArray[np.bool_],
    ) -> None:
        self._network, self._fitting = network, fitting
        self._probe, self._good = torch.from_numpy(probe)[None], torch.from_numpy(good)[None]
        self._centre = CentreFinder(fitting, probe, good)
        self._weight = trust(probe)
        self._share = torch.from_numpy(self._weight / self._weight.sum())

    @property
    def centre_shift(self) -> tuple[int, int]:
        """Rows and columns, detector pixels, by which the beam was found to be off the frames' centre."""
        return self._centre.shift

    def __call__(self, frames: npt.NDArray[np.float32], /) -> Patches:
        """Return the patches of `frames` (B, H, W); a frame without a count gives phase 0 and amplitude 0."""
        _check(frames, self._fitting)
        centred = self._centre(np.asarray(frames, np.float32))
        fitted = torch.from_numpy(np.ascontiguousarray(self._fitting.frames(centred)))
        size = self._network.sizes.size
        patches = torch.empty((len(fitted), size, size), dtype=torch.complex64)
        with torch.inference_mode():
            for k in range(0, len(fitted), CHUNK):
                made = self._network(fitted[k : k + CHUNK], self._probe, self._good)[1]
                patches[k : k + CHUNK] = _levelled(made, self._share)
        patches *= (fitted * self._good).sum((1, 2), keepdim=True) > 0
        values = patches.numpy()
        phase, amplitude = np.angle(values).astype(np.float32), np.abs(values).astype(np.float32)
        return Patches(phase, amplitude, self._weight, self._fitting.scale, self._fitting.offset)


class PlainPredictor:
    """Frames to patches with a network that does not know the probe."""

    def __init__(
        self,
        network: PtychoNN | PtychoNNPhase,
        fitting: Fitting,
        weight: npt.NDArray[np.float32],
        good: npt.NDArray[np.bool_],
    ) -> None:
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._fitting, self._weight, self._good = fitting, weight, torch.from_numpy(good)

    def __call__(self, frames: npt.NDArray[np.float32], /) -> Patches:
        """Return the patches of `frames` (B, H, W)."""
        _check(frames, self._fitting)
        fitted = torch.from_numpy(np.ascontiguousarray(self._fitting.frames(np.asarray(frames, np.float32))))
        counts = (fitted * self._good)[:, None].clamp_min(0).contiguous(memory_format=torch.channels_last)
        phases, amplitudes = [], []
        with torch.inference_mode():
            for k in range(0, max(1, len(counts)), CHUNK):
                phase, amplitude = self._network(counts[k : k + CHUNK])
                phases.append(phase[:, 0])
                if amplitude is not None:
                    amplitudes.append(amplitude[:, 0])
        phase = torch.cat(phases).numpy()
        known = torch.cat(amplitudes).numpy() if amplitudes else None
        return Patches(phase, known, self._weight, self._fitting.scale, self._fitting.offset)
